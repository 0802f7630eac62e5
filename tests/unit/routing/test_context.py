"""Times over the context: what is profiled, what is observed, and what the planner makes of it."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from specrouter_dist.routing.explanation import explain
from specrouter_dist.routing.latency import LatencyTable
from specrouter_dist.routing.observations import (
    SHORTEST_CONTEXT,
    ForwardKey,
    ForwardTimes,
    Observations,
    PairKey,
    context_of,
)
from specrouter_dist.routing.router import Router
from specrouter_dist.routing.traffic import GREEDY
from tests.unit.routing.test_planner import survival

LONG = 1024


def times(mean_us: float, count: int = 1) -> ForwardTimes:
    return ForwardTimes(count, count * mean_us)


def key(
    rows: int, context: int = SHORTEST_CONTEXT, *, num_sessions: int = 1, num_drafts: int = 0
) -> ForwardKey:
    return ForwardKey("m", rows * num_sessions, num_sessions, num_drafts, context_tokens=context)


@pytest.fixture
def table() -> LatencyTable:
    """A row more costs 50 us; a token of context 0.1 us, and with 9 rows 0.2 us."""
    made = LatencyTable(0.0)
    for rows, us in ((1, 100.0), (5, 300.0), (9, 500.0)):
        made.profile(key(rows), times(us))
    made.profile(key(1, LONG), times(100.0 + 96.0))
    made.profile(key(9, LONG), times(500.0 + 192.0))
    return made


class TestShape:
    @pytest.mark.parametrize(("rows", "slope_us"), [(1, 0.1), (5, 0.15), (9, 0.2), (13, 0.25)])
    def test_a_longer_context_takes_longer_in_proportion(
        self, table: LatencyTable, rows: int, slope_us: float
    ) -> None:
        short_us = 50.0 + 50.0 * rows
        for context in (64, 164, 1024, 10_064):
            found = table.forward_us("m", rows, context_tokens=context)
            assert found == pytest.approx(short_us + slope_us * (context - 64))

    def test_contexts_shorter_than_profiled_count_as_the_shortest(
        self, table: LatencyTable
    ) -> None:
        assert table.forward_us("m", 1, context_tokens=0) == pytest.approx(100.0)

    def test_every_session_of_a_batch_pays_for_its_own(self, table: LatencyTable) -> None:
        for rows, us in ((1, 200.0), (5, 600.0)):
            table.profile(key(rows, num_sessions=4), times(us))
        assert table.forward_us("m", 1, 4, context_tokens=164) == pytest.approx(200.0 + 4 * 10.0)

    def test_a_block_has_a_slope_of_its_own(self, table: LatencyTable) -> None:
        table.profile(key(1, num_drafts=7), times(800.0))
        table.profile(key(1, LONG, num_drafts=7), times(800.0 + 8 * 96.0))
        assert table.drafting_us("m", 8, context_tokens=164) == pytest.approx(880.0)
        assert table.drafting_us("m", 1, context_tokens=164) == pytest.approx(110.0)

    def test_without_a_second_context_there_is_no_slope(self) -> None:
        made = LatencyTable(0.0)
        made.profile(key(1), times(100.0))
        assert made.forward_us("m", 1, context_tokens=100_000) == pytest.approx(100.0)
        assert made.per_context_token_us("m") == 0.0

    def test_a_longer_context_that_was_faster_was_a_hiccup(self) -> None:
        made = LatencyTable(0.0)
        made.profile(key(1), times(100.0))
        made.profile(key(1, LONG), times(90.0))
        assert made.forward_us("m", 1, context_tokens=LONG) == pytest.approx(100.0)


class TestLevel:
    def test_a_long_context_is_no_slow_member(self, table: LatencyTable) -> None:
        table.observe([(key(1, LONG), times(196.0, 1000))])
        assert table.forward_us("m", 1, context_tokens=64) == pytest.approx(100.0)
        assert not table.observe([(key(1), times(100.0, 1000))]), "it is still the same"

    def test_what_is_slower_than_its_context_says_is_slow_at_every_context(
        self, table: LatencyTable
    ) -> None:
        for context, us in ((64, 100.0), (LONG, 196.0)) * 10:
            table.observe([(key(1, context), times(1.5 * us, 1000))])
        for context, us in ((64, 100.0), (LONG, 196.0)):
            found = table.forward_us("m", 1, context_tokens=context)
            assert found == pytest.approx(1.5 * us, rel=0.02)
        assert table.per_context_token_us("m") == pytest.approx(0.15, rel=0.12)

    def test_a_verify_beside_a_drafter_is_compared_at_its_context(
        self, table: LatencyTable
    ) -> None:
        table.observe([(key(1), times(100.0, 10_000))])
        table.observe([(key(1, LONG)._replace(beside="d"), times(2 * 196.0))])
        assert table.context_tokens < 70, "which is not typical"
        assert table.slowdown("d", "m") == pytest.approx((5 * 1.0 + 2.0) / 6, rel=0.01)


class TestTypicalContext:
    def test_before_anything_is_observed_it_is_the_shortest(self, table: LatencyTable) -> None:
        assert table.context_tokens == SHORTEST_CONTEXT
        assert table.forward_us("m", 1) == pytest.approx(100.0)

    def test_it_follows_the_traffic(self, table: LatencyTable) -> None:
        for _ in range(20):
            table.observe([(key(1, LONG), times(196.0, 100))])
        assert table.context_tokens == pytest.approx(LONG, rel=0.02)
        assert table.forward_us("m", 1) == pytest.approx(196.0, rel=0.02)
        for _ in range(100):
            table.observe([(key(1), times(100.0, 100))])
        assert table.context_tokens == pytest.approx(SHORTEST_CONTEXT, rel=0.2)

    def test_of_mixed_traffic_it_is_the_mean(self, table: LatencyTable) -> None:
        for _ in range(100):
            table.observe([(key(1, LONG), times(196.0, 5))])
            table.observe([(key(1), times(100.0, 15))])
        assert table.context_tokens == pytest.approx((LONG + 3 * SHORTEST_CONTEXT) / 4, rel=0.1)


SLOPE_US = {"small": 0.0, "target": 2.0}


def observed(context: int, *, is_profile: bool = False) -> Observations:
    """A target that slows with the context, and a drafter that does not."""
    found = Observations(is_profile=is_profile)
    sizes = [(rows, 0) for rows in (1, 17)]
    for (name, slope_us), (rows, drafts) in (
        *((member, size) for member in SLOPE_US.items() for size in sizes),
        (("small", SLOPE_US["small"]), (1, 15)),
    ):
        us = {"small": 200.0 * (1 + drafts), "target": 900.0 + 40.0 * rows}[name]
        times_us = times(us + slope_us * (context - SHORTEST_CONTEXT), 1 if is_profile else 200)
        found.forwards[ForwardKey(name, rows, 1, drafts, context_tokens=context)] = times_us
    return found


def test_where_only_the_target_slows_with_the_context_long_ones_are_drafted_for_further() -> None:
    made = Router(("small", "target"), {}, {"small": "a", "target": "a"}, hop_us=0.0)
    for context in (SHORTEST_CONTEXT, LONG):
        made.observe(observed(context, is_profile=True), 0.0)
    made.observe(Observations(pairs={PairKey("small", "target", GREEDY): survival(0.75)}), 0.0)
    short = made.candidates(GREEDY)[0]
    for second in range(10):
        made.observe(observed(8 * LONG), float(second))
    long = made.candidates(GREEDY)[0]
    assert short.chain == long.chain == ("small", "target")
    assert long.num_draft_tokens[0] >= short.num_draft_tokens[0] + 2
    assert made.latency.forward_us("target", 1, context_tokens=64) == pytest.approx(940.0)
    content = explain(made, 20.0)
    assert content["context_tokens"] == pytest.approx(8 * LONG, rel=0.05)
    slopes = {of["name"]: of["per_context_token_us"] for of in content["members"]}
    assert slopes == {name: pytest.approx(slope_us) for name, slope_us in SLOPE_US.items()}


@pytest.mark.parametrize("context", [0, -1, math.nan, math.inf, 1 << 30])
def test_contexts_that_cannot_be_are_refused(context: float) -> None:
    made = Router(("m",), {}, {"m": "a"}, hop_us=0.0)
    lies = Observations(is_profile=True, forwards={key(1, context): times(100.0)})  # type: ignore[arg-type]
    made.observe(lies, 0.0)
    lies.is_profile = False
    made.observe(lies, 0.0)
    assert made.num_refused == 2
    assert made.latency.forward_us("m", 1) is None
    assert made.latency.context_tokens == SHORTEST_CONTEXT


@pytest.mark.parametrize("size", [{"num_rows": 0}, {"num_sessions": 0}, {"num_drafts": -1}])
def test_sizes_that_cannot_be_are_refused(size: dict[str, int]) -> None:
    assert key(1).is_plausible
    assert not key(1)._replace(**size).is_plausible


class TestRounding:
    @given(st.lists(st.integers(0, 1 << 19), min_size=1, max_size=8))
    def test_a_fifth_is_rounded_off_at_most(self, starts: list[int]) -> None:
        mean = max(SHORTEST_CONTEXT, sum(starts) / len(starts))
        assert abs(context_of(starts) - mean) <= 0.2 * mean
        assert context_of([context_of(starts)]) == context_of(starts)

    def test_there_are_few(self) -> None:
        assert context_of([0]) == context_of([64]) == SHORTEST_CONTEXT
        assert len({context_of([start]) for start in range(1 << 14)}) == 17
