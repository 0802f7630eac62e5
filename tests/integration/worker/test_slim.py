"""A slim member in its target's worker: the text, the shared KV storage, and what becomes of it."""

import itertools
import queue
from array import array
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specrouter_dist.config import (
    Dtype,
    EdgeKnobs,
    LayerSkipMember,
    LookupMember,
    Plan,
    SamplingParams,
)
from specrouter_dist.engine.interface import Extension, Picks
from specrouter_dist.links.control import Failed, Output, Submit
from specrouter_dist.links.hub import Hub
from specrouter_dist.routing.plans import PlanTable
from specrouter_dist.speculation.ending import StopIds
from specrouter_dist.speculation.messages import TOKEN_TYPECODE, TokenArray
from specrouter_dist.worker.member import LookupHost, ModelHost
from specrouter_dist.worker.posts import Call
from specrouter_dist.worker.session import Session
from specrouter_dist.worker.slim import slim_hosts
from specrouter_dist.worker.worker import Worker
from tests.integration.worker.toys import SECRET, WAIT_S
from tests.unit.engine.fast_models import load, save, small

LOCK_STEP = EdgeKnobs(window=4, burst=4, patience=4, patience_ms=5)
AHEAD = EdgeKnobs(window=12, burst=5, patience=2, patience_ms=5)
OWN_TEXT = EdgeKnobs(window=6, burst=4, patience=2, patience_ms=5, match_tokens=1)
CHAINS = [
    (("slim", "target"), LOCK_STEP),
    (("slim", "target"), AHEAD),
    (("draft", "slim", "target"), OWN_TEXT),
    (("lookup", "draft", "slim", "target"), AHEAD),
    (("medium", "slim", "target"), LOCK_STEP),
    (("draft", "medium", "slim", "target"), AHEAD),
    # Above another member its stream may differ from the target's for a while.
    (("slim", "draft", "target"), LOCK_STEP),
    (("slimmer", "slim", "target"), AHEAD),
]
MEMBERS = [
    LayerSkipMember(kind="layer_skip", name=name, of="target", mask=mask)
    for name, mask in (("slimmer", ("1.mlp", "2.attention", "3.mlp")), ("slim", ("2.attention",)))
]


class Storage:
    """Who has written which token's KV where, beside the engine; checks every forward.

    Invariant 2 of a slim session: what it reads was computed from its own tokens, by the target or
    by itself. And the target reads only what it has written.
    """

    def __init__(self) -> None:
        self.worker: Worker
        self.after_target: Callable[[], None] = lambda: None
        self.num_checked = 0
        self.num_rejected = 0
        self._written: dict[tuple[int, int], tuple[str, int]] = {}
        """Writer and token by slot and position."""

    def watch(self, host: ModelHost) -> None:
        """From now on every forward of the host is checked."""
        extend = host.engine.extend

        def checked(batch: Sequence[Extension]) -> list[Picks]:
            for extension in batch:
                self._check(host, extension)
            picks = extend(batch)
            for extension, drawn in zip(batch, picks, strict=True):
                drafts = drawn.tokens[extension.num_picks - 1 : -1] if extension.num_picks else ()
                for i, token in enumerate((*extension.tokens, *drafts)):
                    self._written[extension.slot, extension.start + i] = host.name, token
            if host.is_target:
                self.after_target()
            return picks

        host.engine.extend = checked  # type: ignore[method-assign]
        if host.is_target:
            self._watch_reuse(host)

    def _watch_reuse(self, target: ModelHost) -> None:
        reuse = target.engine.reuse

        def noted(slot: int, tokens: TokenArray) -> int:
            num_reused = reuse(slot, tokens)
            for position in range(num_reused):
                self._written[slot, position] = target.name, tokens[position]
            return num_reused

        target.engine.reuse = noted  # type: ignore[method-assign]

    def _check(self, host: ModelHost, extension: Extension) -> None:
        session = self._session(host, extension.slot)
        if session is None:
            return  # A text that is read.
        tokens = session.model_stage.tokens
        for position in range(extension.start):
            writer, token = self._written[extension.slot, position]
            assert token == tokens[position], (host.name, position)
            assert writer in ("target", host.name)
        if session.owner is not None:
            assert extension.start >= session.owner.model_stage.kv_len
        self.num_checked += 1

    def _session(self, host: ModelHost, slot: int) -> Session | None:
        sessions = self.worker._chains.sessions
        return next((s for s in sessions if s.member is host and s.slot == slot), None)


class Slims:
    """A worker with a target, slim members of it and two drafters."""

    def __init__(self, directory: Path) -> None:
        self.storage = Storage()
        self.target = load(directory, kv_tokens=4096)
        draft = load(directory, exact=False, int8=True)
        medium = load(directory, exact=False, dtype=Dtype.BF16)
        host = ModelHost("target", self.target, is_target=True)
        slims = slim_hosts(MEMBERS, host)
        for watched in (*slims, host):
            self.storage.watch(watched)
        self._inboxes: dict[int, queue.SimpleQueue[Output | Failed]] = {}
        self._ids = itertools.count(1)
        self.worker = self.storage.worker = Worker(
            [
                LookupHost(LookupMember(kind="lookup", min_match_tokens=1)),
                ModelHost("draft", draft, is_target=False),
                ModelHost("medium", medium, is_target=False),
                *slims,
                host,
            ],
            Hub("all", 1, "here", SECRET),
            PlanTable.only(Plan(chain=("target",))),
            lambda submit: StopIds(submit.sampling.stop_token_ids),
            lambda message: self._inboxes[message.request].put(message),
        )
        self.worker.start()

    def texts(
        self, chain: Sequence[str], knobs: EdgeKnobs, sampling: SamplingParams, num: int = 4
    ) -> list[list[int]]:
        """Of ``num`` requests at a time."""
        return self.planned(
            Plan(chain=tuple(chain), edges=(knobs,) * (len(chain) - 1)), sampling, num
        )

    def planned(self, plan: Plan, sampling: SamplingParams, num: int = 4) -> list[list[int]]:
        """The same with knobs for each edge."""
        requests = list(itertools.islice(self._ids, num))
        for number, request in enumerate(requests):
            self._inboxes[request] = queue.SimpleQueue()
            prompt = array(
                TOKEN_TYPECODE, [(number + 3 * i) % 120 for i in range(20 + 17 * number)]
            )
            own = sampling.model_copy(update={"seed": number})
            nothing = array(TOKEN_TYPECODE)
            self.worker.submit(Submit(request, prompt, own, plan, nothing))
        return [self._collect(request) for request in requests]

    def _collect(self, request: int) -> list[int]:
        tokens: list[int] = []
        while True:
            message = self._inboxes[request].get(timeout=WAIT_S)
            assert isinstance(message, Output), message
            tokens.extend(message.tokens)
            if message.finish_reason is not None:
                assert message.stats is not None
                levels = message.stats["levels"]
                assert isinstance(levels, tuple)
                self.storage.num_rejected += sum(truncations for *_, truncations in levels)
                return tokens


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("slims")
    save(small(num_hidden_layers=5), path)
    return path


@pytest.fixture
def slims(directory: Path) -> Iterator[Slims]:
    made = Slims(directory)
    yield made
    made.worker.stop()
    assert made.worker.error is None


@pytest.fixture(scope="module")
def shared(directory: Path) -> Iterator[Slims]:
    """For many examples."""
    made = Slims(directory)
    yield made
    made.worker.stop()
    assert made.worker.error is None


@st.composite
def knobs(draw: st.DrawFn) -> EdgeKnobs:
    patience, burst, window = sorted(draw(st.tuples(*[st.integers(1, 9)] * 3)))
    matching = draw(st.sampled_from([0, 0, 2]))
    return EdgeKnobs(
        patience=patience, burst=burst, window=window, patience_ms=5, match_tokens=matching
    )


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    """Any order of any members, at least one of them slim."""
    models = ("draft", "medium", "slim", "slimmer")
    chosen = draw(st.lists(st.sampled_from(models), unique=True, max_size=3))
    at = draw(st.integers(0, len(chosen)))
    if not set(chosen) & {"slim", "slimmer"}:
        chosen.insert(at, "slim")
    lookup = ("lookup",) if draw(st.booleans()) else ()
    chain = (*lookup, *chosen, "target")
    return Plan(chain=chain, edges=tuple(draw(knobs()) for _ in chain[1:]))


@settings(max_examples=12, derandomize=True)
@given(plans(), st.sampled_from([0.0, 0.7]), st.sampled_from([0.0, 0.5]))
def test_whatever_the_plan_the_text_is_the_targets(
    shared: Slims, plan: Plan, temperature: float, penalty: float
) -> None:
    sampling = SamplingParams(temperature=temperature, max_tokens=24, frequency_penalty=penalty)
    wanted = shared.planned(Plan(chain=("target",)), sampling, num=3)
    assert shared.planned(plan, sampling, num=3) == wanted


@pytest.mark.parametrize(
    "sampling",
    [
        SamplingParams(temperature=0.0, max_tokens=32),
        SamplingParams(temperature=0.8, max_tokens=32, frequency_penalty=0.4),
    ],
    ids=["greedy", "penalised"],
)
def test_every_chain_prints_what_the_target_alone_prints(
    slims: Slims, sampling: SamplingParams
) -> None:
    wanted = slims.texts(("target",), LOCK_STEP, sampling)
    for chain, knobs in CHAINS:
        before = slims.storage.num_checked
        assert slims.texts(chain, knobs, sampling) == wanted, (chain, knobs)
        assert slims.storage.num_checked > before
    assert slims.storage.num_rejected > 20


def test_plans_that_leave_it_and_come_back_change_no_text(slims: Slims) -> None:
    sampling = SamplingParams(temperature=0.8, max_tokens=48)
    wanted = slims.texts(("target",), LOCK_STEP, sampling)
    chains = itertools.cycle([("draft", "target"), ("target",), ("slim", "target")])
    numbers = itertools.count(1)

    def replan() -> None:
        number, chain = next(numbers), next(chains)
        edges = (AHEAD,) * (len(chain) - 1)
        plan = Plan(number=number, chain=chain, edges=edges)
        for session in list(slims.worker._chains.sessions):
            if session.member.name == "target":
                slims.worker._chains.want(session, plan)

    slims.storage.after_target = lambda: slims.worker.hub.post(Call(replan))
    assert slims.texts(("slim", "target"), AHEAD, sampling) == wanted
    assert next(numbers) > 12


def test_the_storage_ends_with_the_targets_session(slims: Slims) -> None:
    sampling = SamplingParams(temperature=0.8, max_tokens=16)
    num_free = slims.target._cache.allocator.num_free
    for chain, knobs in CHAINS:
        slims.texts(chain, knobs, sampling)
    slims.worker.stop()
    assert not slims.worker._chains.sessions
    sessions = slims.target._sessions
    sessions._prefixes.take(num_free)
    assert not sessions._sessions
