"""A slim member in its target's worker: the text, the shared KV storage, and what becomes of it."""

import itertools
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specrouter_dist.config import EdgeKnobs, Plan, SamplingParams
from specrouter_dist.worker.posts import Call
from tests.integration.worker.slims import AHEAD, LOCK_STEP, OWN_TEXT, Slims

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


def text_under(slims: Slims, chosen: Sequence[Plan], sampling: SamplingParams) -> list[list[int]]:
    """With one plan behind the other, another at every forward of the target."""
    endless = itertools.cycle(chosen)
    numbered = (
        plan.model_copy(update={"number": number}) for number, plan in enumerate(endless, start=1)
    )

    def replan() -> None:
        plan = next(numbered)
        for session in list(slims.worker._chains.sessions):
            if session.member.name == "target":
                slims.worker._chains.upstreams.want(session, plan)

    slims.storage.after_target = lambda: slims.worker.hub.post(Call(replan))
    try:
        return slims.planned(chosen[-1], sampling)
    finally:
        slims.storage.after_target = lambda: None
        assert slims.worker.error is None
        assert next(numbered).number > 12


def test_plans_that_leave_it_and_come_back_change_no_text(slims: Slims) -> None:
    sampling = SamplingParams(temperature=0.8, max_tokens=96)
    wanted = slims.texts(("target",), LOCK_STEP, sampling)
    chains = ("draft", "target"), ("target",), ("slim", "target")
    chosen = [Plan(chain=chain, edges=(AHEAD,) * (len(chain) - 1)) for chain in chains]
    assert text_under(slims, chosen, sampling) == wanted


@settings(max_examples=12, derandomize=True)
@given(st.lists(plans(), min_size=2, max_size=4))
def test_plans_that_move_it_in_the_chain_change_no_text(shared: Slims, chosen: list[Plan]) -> None:
    """Whoever drops out between it and the target lets it go later than the target takes it."""
    sampling = SamplingParams(temperature=0.7, max_tokens=48)
    wanted = shared.planned(Plan(chain=("target",)), sampling)
    assert text_under(shared, chosen, sampling) == wanted


def test_the_storage_ends_with_the_targets_session(slims: Slims) -> None:
    sampling = SamplingParams(temperature=0.8, max_tokens=16)
    num_free = slims.target._decoder.cache.allocator.num_free
    for chain, knobs in CHAINS:
        slims.texts(chain, knobs, sampling)
    slims.worker.stop()
    assert not slims.worker._chains.sessions
    sessions = slims.target._sessions
    sessions._prefixes.take(num_free)
    assert not sessions._sessions
