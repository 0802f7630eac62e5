"""Plans that leave a session its upstream are told along the chain; nobody is attached again."""

import pytest

from specrouter_dist.config import EdgeKnobs, Plan, SamplingParams
from specrouter_dist.engine.toy import ToyEngine
from specrouter_dist.links.address import Address
from specrouter_dist.links.control import Attach, Detach, Replan, WireMessage
from specrouter_dist.routing.observations import Observations
from specrouter_dist.routing.traffic import GREEDY
from specrouter_dist.speculation.ending import StopIds
from specrouter_dist.speculation.messages import EdgeId, Proposals, Truth
from specrouter_dist.worker.chains import Chains
from specrouter_dist.worker.member import Opening
from specrouter_dist.worker.model_host import ModelHost
from specrouter_dist.worker.outbox import Outbox
from specrouter_dist.worker.session import Session

PROMPT = [1, 2, 3, 4, 5]
SAMPLING = SamplingParams(temperature=0.8, max_tokens=120, seed=7)
AGREEMENTS = {"target": 1.0, "medium": 0.8, "small": 0.6}


class FakeHub:
    """Of a worker that holds all members: it has an address and sends nothing."""

    address = Address("here", 1, "node", "/nowhere", "")


def plan(*chain: str, length: int, number: int = 0) -> Plan:
    edges = [EdgeKnobs(window=length, burst=length, patience=length) for _ in chain[1:]]
    return Plan(number=number, chain=chain, edges=tuple(edges))


class Pool:
    """The members of one worker and one request, turned by hand."""

    def __init__(self) -> None:
        self.seen = Observations()
        self.sent: list[WireMessage] = []
        self.sessions: dict[str, Session] = {}
        self.hosts = {
            name: ModelHost(
                name, ToyEngine(model_seed=seed, agreement=agreement), is_target=not seed
            )
            for seed, (name, agreement) in enumerate(AGREEMENTS.items())
        }
        hub = FakeHub()
        self._outbox = Outbox(hub, lambda peer: None)  # type: ignore[arg-type]
        self.chains = Chains(self.hosts, hub, self._outbox, self._touch)  # type: ignore[arg-type]
        target, end = self.hosts["target"], len(PROMPT) + SAMPLING.max_tokens
        stage, slot = target.open(Opening(PROMPT, len(PROMPT), end, SAMPLING), StopIds(()))
        self.target = Session(1, target, stage, slot, SAMPLING, len(PROMPT), end, GREEDY)
        self.chains.sessions[self.target] = None
        self._touch(self.target)

    def _touch(self, session: Session) -> None:
        self.sessions[session.member.name] = session
        session.member.ready[session] = None  # type: ignore[attr-defined]

    def want(self, plan: Plan) -> None:
        """The target's new plan, told along the chain."""
        self.chains.upstreams.want(self.target, plan)
        self.settle()

    def settle(self) -> None:
        """Everybody says what is to be said, until nobody has anything to say."""
        is_quiet = False
        while not is_quiet:
            said = [m for s in self.sessions.values() for m in s.stage.flush()]
            is_quiet = not said and not self._outbox.local
            self._outbox.local.extend(said)
            while self._outbox.local:
                self._deliver(self._outbox.local.popleft())

    def _deliver(self, message: WireMessage) -> None:
        self.sent.append(message)
        match message:
            case Attach():
                self.chains.on_attach(None, message)
            case Replan():
                self.chains.on_replan(message)
            case Detach():
                self.chains.on_detach(message, 0.0)
            case Truth() if message.edge in self.chains.by_down_edge:
                self._hear(self.chains.by_down_edge[message.edge], message)
            case Proposals() if message.edge in self.chains.upstreams.by_up_edge:
                self._hear(self.chains.upstreams.by_up_edge[message.edge], message)

    def _hear(self, session: Session, message: Truth | Proposals) -> None:
        if isinstance(message, Truth):
            session.stage.on_truth(message)
        else:
            session.model_stage.on_proposals(message)
        self._touch(session)

    def turn(self, name: str) -> bool:
        """One forward of that member, if it has a step."""
        host = self.hosts[name]
        batch = host.take_steps(0.0, self.seen)
        for session, _, _ in host.forward(batch, self.seen) if batch else ():
            self._touch(session)
        self.settle()
        return bool(batch)

    def run(self, num_rounds: int) -> None:
        """So many forwards of the target, its drafters as far as they may before each."""
        for _ in range(num_rounds):
            while self.turn("small") or self.turn("medium"):
                pass
            self.turn("target")

    def text(self) -> list[int]:
        stage, num_rounds = self.target.model_stage, 0
        while not stage.finished:
            self.run(1)
            num_rounds += 1
            assert num_rounds < SAMPLING.max_tokens + 1, "the target waits in vain"
        return stage.tokens.slice(0, len(stage.tokens)).tolist()


@pytest.fixture
def pool() -> Pool:
    return Pool()


@pytest.fixture(scope="module")
def alone() -> list[int]:
    return Pool().text()


def test_other_knobs_keep_edge_queue_and_run_ahead(pool: Pool, alone: list[int]) -> None:
    pool.want(plan("small", "medium", "target", length=4))
    pool.run(3)
    while pool.turn("small") or pool.turn("medium"):
        pass
    stage, edge = pool.target.model_stage, pool.target.up_edge
    assert stage.up is not None and stage.up.queue.tokens
    queue, ahead = stage.up.queue.tokens[:], len(pool.sessions["small"].stage.tokens)
    pool.sent.clear()
    pool.want(plan("small", "medium", "target", length=2, number=1))
    assert [m for m in pool.sent if isinstance(m, Attach | Detach)] == []
    assert sum(isinstance(m, Replan) for m in pool.sent) == 2, "one for each edge"
    assert pool.target.up_edge == edge
    assert stage.up.queue.tokens == queue
    assert len(pool.sessions["small"].stage.tokens) == ahead
    for name in ("small", "medium"):
        assert pool.sessions[name].model_stage.block_tokens == 2
        assert pool.sessions[name].plan_number == 1
    assert pool.sessions["medium"].model_stage.up.knobs.burst == 2  # type: ignore[union-attr]
    assert pool.text() == alone


def test_knobs_that_change_every_few_rounds_attach_once(pool: Pool, alone: list[int]) -> None:
    for number in range(12):
        length = (3, 6)[number % 2]
        pool.want(plan("medium", "target", length=length, number=number))
        pool.run(2)
    assert sum(isinstance(m, Attach) for m in pool.sent) == 1
    assert pool.text() == alone


def test_a_longer_block_is_drafted_and_verified_as_a_whole(pool: Pool) -> None:
    pool.want(plan("medium", "target", length=2))
    pool.run(3)
    pool.want(plan("medium", "target", length=6, number=1))
    while pool.turn("medium"):
        pass
    up = pool.target.model_stage.up
    assert up is not None and len(up.queue.tokens) == 6


def test_another_chain_above_the_upstream_leaves_it_too(pool: Pool, alone: list[int]) -> None:
    pool.want(plan("small", "medium", "target", length=4))
    pool.run(3)
    edge = pool.target.up_edge
    pool.want(plan("medium", "target", length=4, number=1))
    assert pool.target.up_edge == edge
    assert pool.sessions["medium"].upstream is None
    pool.run(3)
    pool.want(plan("small", "medium", "target", length=4, number=2))
    assert pool.target.up_edge == edge
    assert pool.sessions["medium"].upstream == "small"
    assert pool.text() == alone


def test_an_older_or_foreign_one_is_ignored(pool: Pool, caplog: pytest.LogCaptureFixture) -> None:
    pool.want(plan("medium", "target", length=4, number=5))
    edge = pool.target.up_edge
    assert edge is not None
    medium = pool.sessions["medium"].model_stage
    for message in (
        Replan(edge, plan("medium", "target", length=2, number=4)),
        Replan(EdgeId(1, 99, 1), plan("medium", "target", length=2, number=6)),
        Replan(edge, plan("small", "target", length=2, number=6)),
    ):
        pool.chains.on_replan(message)
        assert medium.block_tokens == 4
    assert "is not for 'medium'" in caplog.text
    pool.chains.on_replan(Replan(edge, plan("medium", "target", length=2, number=6)))
    assert medium.block_tokens == 2
