"""A slim member below a member of another worker: what it hears of the target comes late."""

from array import array
from pathlib import Path

import pytest

from specrouter_dist.config import EdgeKnobs, LayerSkipMember, LossyParams, SamplingParams
from specrouter_dist.links.address import Address, Peer
from specrouter_dist.links.control import Attach, Detach, Refused
from specrouter_dist.routing.observations import Observations
from specrouter_dist.routing.traffic import GREEDY
from specrouter_dist.speculation.ending import StopIds
from specrouter_dist.speculation.messages import TOKEN_TYPECODE, EdgeId, Truth
from specrouter_dist.worker.chains import Chains
from specrouter_dist.worker.member import Opening
from specrouter_dist.worker.model_host import ModelHost
from specrouter_dist.worker.outbox import Outbox
from specrouter_dist.worker.parking import LEASE_S
from specrouter_dist.worker.session import Session
from specrouter_dist.worker.slim import SlimHost, slim_hosts
from specrouter_dist.worker.threads import Threads
from specrouter_dist.worker.tiers import TieredHost
from tests.unit.engine.fast_models import load, save, small

PROMPT = array(TOKEN_TYPECODE, range(1, 9))
SAMPLING = SamplingParams(temperature=0.0, max_tokens=40)
END = len(PROMPT) + SAMPLING.max_tokens
REQUEST = 7
EDGE = EdgeId(REQUEST, 1, 99)
MEDIUM = Peer("medium", 99)
"""The slim member's downstream, elsewhere."""
SLIM = LayerSkipMember(kind="layer_skip", name="slim", of="target", mask=("2.attention",))


class FakeHub:
    """It has an address and sends nothing."""

    address = Address("here", 1, "node", "/nowhere", "")


class ByHand:
    """A worker's chains and two members, turned by hand."""

    def __init__(self, directory: Path) -> None:
        self.engine = load(directory)
        self.target = ModelHost("target", self.engine, is_target=True)
        (self.slim,) = slim_hosts([SLIM], self.target)
        hosts = {"target": self.target, "slim": self.slim}
        self.outbox = Outbox(FakeHub(), lambda peer: None)  # type: ignore[arg-type]
        self.chains = Chains(hosts, FakeHub(), self.outbox, lambda _: None)  # type: ignore[arg-type]

    def open_target(self) -> Session:
        opening = Opening(PROMPT, len(PROMPT), END, SAMPLING)
        stage, slot = self.target.open(opening, StopIds(()))
        session = Session(
            REQUEST, self.target, stage, slot, SAMPLING, len(PROMPT), END, traffic=GREEDY
        )
        self.chains.sessions[session] = None
        return session

    def attach(
        self, tokens: "array[int]", edge: EdgeId = EDGE, peer: Peer | None = MEDIUM, number: int = 1
    ) -> None:
        """Medium, whose stream is ``tokens``, wants the slim member's proposals."""
        self.chains.on_attach(
            peer,
            Attach(
                edge=edge,
                version=1,
                plan_number=number,
                chain=("slim",),
                edges=(),
                prompt_tokens=len(PROMPT),
                tokens=tokens,
                sampling=SAMPLING,
                end=END,
                limit=len(tokens) + 4,
                block_tokens=EdgeKnobs().patience,
                outcomes=0,
                task="",
            ),
        )

    def turn(self, host: ModelHost, session: Session) -> bool:
        """One forward of the session, if it has a step."""
        host.ready[session] = None
        batch = host.take_steps(0.0, Observations())
        if batch:
            host.forward(batch, Observations())
        return bool(batch)


@pytest.fixture
def by_hand(tmp_path: Path) -> ByHand:
    save(small(num_hidden_layers=5), tmp_path)
    return ByHand(tmp_path)


def test_it_rests_while_its_stream_differs_where_the_target_has_cached(by_hand: ByHand) -> None:
    target = by_hand.open_target()
    for _ in range(5):
        by_hand.turn(by_hand.target, target)
    stream = target.model_stage.tokens.slice(0, END)
    wrong = stream[:-2]
    wrong[-2] = (wrong[-2] + 1) % 120
    by_hand.attach(wrong)
    (slim,) = target.guests
    assert not by_hand.turn(by_hand.slim, slim)
    # As long as the target's, and longer, it still differs.
    slim.stage.on_truth(Truth(EDGE, 2, len(wrong), array(TOKEN_TYPECODE, [1, 2, 3]), END))
    assert not by_hand.turn(by_hand.slim, slim)
    slim.stage.on_truth(Truth(EDGE, 3, 0, stream, END))
    assert by_hand.turn(by_hand.slim, slim)
    assert len(slim.model_stage.tokens) > len(stream)
    assert target.model_stage.kv_len == len(stream) - 1


def test_it_rests_until_the_target_has_fed_the_prompt(by_hand: ByHand) -> None:
    target = by_hand.open_target()
    by_hand.attach(PROMPT)
    (slim,) = target.guests
    assert not by_hand.turn(by_hand.slim, slim)
    by_hand.turn(by_hand.target, target)
    assert slim.model_stage.kv_len == 0
    slim.stage.on_truth(Truth(EDGE, 2, 0, target.model_stage.tokens.slice(0, END), END))
    assert by_hand.turn(by_hand.slim, slim)


def test_without_the_targets_session_it_is_refused(by_hand: ByHand) -> None:
    said: list[object] = []
    by_hand.outbox.put = lambda peer, message: said.append(message)  # type: ignore[method-assign]
    by_hand.attach(PROMPT)
    assert said == [Refused(EDGE, "target does not hold the request of slim")]


@pytest.mark.parametrize("is_parked", [False, True])
def test_it_ends_with_the_targets_session(by_hand: ByHand, is_parked: bool) -> None:
    target = by_hand.open_target()
    by_hand.attach(PROMPT)
    if is_parked:
        by_hand.chains.on_detach(Detach(EDGE, False), 0.0)
    by_hand.chains.close(target)
    assert not by_hand.chains.sessions
    assert by_hand.chains.expire(2 * LEASE_S) is None
    # Frames that are underway find nobody, and the slot is free for the next request.
    assert EDGE not in by_hand.chains.by_down_edge
    by_hand.open_target()
    by_hand.attach(PROMPT)


def test_the_newer_plan_has_it_whoever_speaks_first(by_hand: ByHand) -> None:
    """Medium drops out: the target takes the slim member before it has heard of that."""
    said: list[object] = []
    by_hand.outbox.put = lambda peer, message: said.append(message)  # type: ignore[method-assign]
    target = by_hand.open_target()
    by_hand.attach(PROMPT)
    (slim,) = target.guests
    targets_own = EdgeId(REQUEST, 2, 99)
    by_hand.attach(PROMPT, targets_own, None, number=2)
    # What medium still says is of a plan that is over.
    by_hand.chains.on_detach(Detach(EDGE, False), 0.0)
    late = EdgeId(REQUEST, 3, 99)
    by_hand.attach(PROMPT, late, number=1)
    assert said == [Refused(late, "slim is in a newer plan's chain")]
    assert target.guests == [slim]
    assert by_hand.chains.by_down_edge == {targets_own: slim}


def test_lossy_sessions_are_counted_and_run_as_the_targets(by_hand: ByHand) -> None:
    """They are at a host of their own, and in its engine."""
    by_hand.target.threads = Threads(3)
    assert isinstance(by_hand.slim, SlimHost)
    tiered = TieredHost(by_hand.slim)
    assert tiered.threads is by_hand.target.threads
    opening = Opening(PROMPT, len(PROMPT), END, SAMPLING, lossy=LossyParams())
    tiered.open(opening, StopIds(()))
    assert by_hand.target.counts.num_open == 1
    assert by_hand.target.counts.num_prefix_queries == len(PROMPT)
