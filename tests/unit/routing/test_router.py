"""Measuring and deciding: latency, agreement, the planner's formula, the router's table."""

import math
from itertools import combinations, product

import pytest

from specrouter_dist.config import EdgeKnobs, LookupMember, Plan
from specrouter_dist.routing.agreement import PRIOR_AGREEMENT, AgreementTable
from specrouter_dist.routing.costs import Regime
from specrouter_dist.routing.latency import LatencyTable
from specrouter_dist.routing.observations import (
    ANY_DRAFTER,
    ForwardKey,
    ForwardTimes,
    Observations,
    Pace,
    PaceKey,
    PairKey,
    Survival,
    WaitKey,
)
from specrouter_dist.routing.planner import Candidate, to_plan
from specrouter_dist.routing.plans import LOADS, Ladder, Rung, Standing, load_index
from specrouter_dist.routing.router import Router
from specrouter_dist.routing.switching import Progress
from specrouter_dist.routing.traffic import GREEDY, ROOTS, SAMPLED

HALF_WAY = Progress(100, 100)


def times(mean_us: float, count: int = 10) -> ForwardTimes:
    return ForwardTimes(count, mean_us * count)


def blocks(num_blocks: int, length: int, alpha: float) -> Survival:
    """Expected counts of ``num_blocks`` of a pair with geometric survival."""
    survival = Survival(num_blocks=num_blocks)
    for k in range(length):
        survival.reached.append(round(num_blocks * alpha**k))
        survival.accepted.append(round(num_blocks * alpha ** (k + 1)))
    return survival


def observe(table: LatencyTable, key: ForwardKey, of: ForwardTimes) -> float:
    """A report of one kind of steps."""
    return table.observe([(key, of)]).get(key.member, 1.0)


def observe_wait(table: LatencyTable, key: WaitKey, of: ForwardTimes) -> float:
    return table.observe_waits([(key, of)]).get((key.draft, key.verifier), 1.0)


class TestLatency:
    @pytest.fixture
    def table(self) -> LatencyTable:
        table = LatencyTable(100.0)
        table.profile(ForwardKey("m", 1, 1), times(100))
        table.profile(ForwardKey("m", 5, 1), times(300))
        return table

    def test_a_member_never_profiled_has_no_time(self) -> None:
        table = LatencyTable(100.0)
        observe(table, ForwardKey("small", 1, 1), times(100))
        assert table.forward_us("small", 1) is None

    def test_between_profiled_row_counts_the_time_is_linear(self, table: LatencyTable) -> None:
        assert table.forward_us("m", 3) == pytest.approx(200)

    def test_beyond_them_it_goes_on_with_the_slope(self, table: LatencyTable) -> None:
        assert table.forward_us("m", 7) == pytest.approx(400)

    def test_what_is_observed_at_one_size_comes_on_top_of_all(self, table: LatencyTable) -> None:
        for _ in range(20):
            observe(table, ForwardKey("m", 1, 1), times(200, 100))
        assert table.forward_us("m", 1) == pytest.approx(200, rel=0.02)
        found = table.forward_us("m", 5)
        assert found is not None and 400 < found < 450, "most of it, not the whole"

    @pytest.mark.parametrize(("more_us", "ratio"), [(200.0, 1.0), (0.0, 2.0), (50.0, 1.2)])
    def test_two_sizes_tell_what_comes_on_top_from_what_is_slower(
        self, table: LatencyTable, more_us: float, ratio: float
    ) -> None:
        for _ in range(20):
            for rows, us in ((1, 100.0), (5, 300.0)):
                observe(table, ForwardKey("m", rows, 1), times(more_us + ratio * us, 100))
        for rows, us in ((1, 100.0), (3, 200.0), (5, 300.0), (7, 400.0)):
            wanted = pytest.approx(more_us + ratio * us, rel=0.06)
            assert table.forward_us("m", rows) == wanted

    def test_larger_forwards_that_are_faster_leave_a_rising_line(self, table: LatencyTable) -> None:
        for _ in range(20):
            observe(table, ForwardKey("m", 1, 1), times(190, 100))
            observe(table, ForwardKey("m", 5, 1), times(160, 100))
        few, many = table.forward_us("m", 1), table.forward_us("m", 5)
        assert few is not None and many is not None and 100 < few < many

    def test_a_hiccup_counts_as_one_forward(self, table: LatencyTable) -> None:
        observe(table, ForwardKey("m", 1, 1), times(100, 100))
        observe(table, ForwardKey("m", 1, 1), times(10_000, 100))
        assert table.forward_us("m", 1) == pytest.approx(100, rel=1.0)

    def test_a_change_is_believed_when_it_is_seen_twice(self, table: LatencyTable) -> None:
        observe(table, ForwardKey("m", 1, 1), times(100, 10_000))
        observe(table, ForwardKey("m", 1, 1), times(500, 50))
        assert table.forward_us("m", 1) == pytest.approx(100, rel=0.1)
        observe(table, ForwardKey("m", 1, 1), times(520, 50))
        assert table.forward_us("m", 1) == pytest.approx(500, rel=0.01)
        observe(table, ForwardKey("m", 1, 1), times(100, 1))
        observe(table, ForwardKey("m", 1, 1), times(110, 1))
        assert table.forward_us("m", 1) == pytest.approx(110, rel=0.01)

    def test_a_member_not_used_any_more_is_not_slow_for_ever(self, table: LatencyTable) -> None:
        for mean_us in (100, 500, 500):
            observe(table, ForwardKey("m", 1, 1), times(mean_us, 50))
        table.forget()
        assert table.forward_us("m", 1) == pytest.approx(500, rel=0.1), "it was observed"
        for _ in range(20):
            table.forget()
        assert table.forward_us("m", 1) == pytest.approx(100, rel=0.1)

    def test_hiccups_between_usual_times_change_nothing(self, table: LatencyTable) -> None:
        observe(table, ForwardKey("m", 1, 1), times(100, 10_000))
        for hiccup_us in (500, 4000, 900, 250):
            observe(table, ForwardKey("m", 1, 1), times(hiccup_us, 50))
            observe(table, ForwardKey("m", 1, 1), times(100, 50))
        assert table.forward_us("m", 1) == pytest.approx(100, rel=0.2)

    def test_a_hiccup_is_one_however_many_kinds_of_steps_it_was_seen_in(
        self, table: LatencyTable
    ) -> None:
        for rows, us in ((1, 100), (3, 200), (5, 300)):
            observe(table, ForwardKey("m", rows, 1), times(us, 1000))
        kinds = [(ForwardKey("m", 1, 1), times(500, 19)), (ForwardKey("m", 3, 1), times(900, 4))]
        assert table.observe(kinds) == {}
        assert table.is_in_doubt("m")
        assert table.forward_us("m", 3) == pytest.approx(200, rel=0.1)
        changed = table.observe(kinds)
        assert changed == {"m": pytest.approx(4.8, rel=0.05)}
        assert table.forward_us("m", 3) == pytest.approx(900, rel=0.1)

    def test_few_slow_steps_among_many_are_no_change(self, table: LatencyTable) -> None:
        """The first step of a request is made with cold caches; that is no slow member."""
        first, verify = ForwardKey("m", 1, 1), ForwardKey("m", 5, 1)
        observe(table, first, times(100, 1000))
        for _ in range(5):
            assert table.observe([(first, times(350, 1)), (verify, times(310, 40))]) == {}
        assert table.drafting_us("m", 1) == pytest.approx(100, rel=0.1)

    @pytest.mark.parametrize("slow", [1, 8])
    def test_a_change_is_of_the_kinds_of_steps_in_which_it_shows(
        self, table: LatencyTable, slow: int
    ) -> None:
        """Also if others take most of the time; and what was seen of those is kept."""
        table.profile(ForwardKey("m", 8, 8), times(800))
        keys, usual_us = {n: ForwardKey("m", n, n) for n in (1, 8)}, {1: 100, 8: 800}
        table.observe((key, times(usual_us[n], 1000)) for n, key in keys.items())
        for _ in range(2):
            changed = table.observe(
                (key, times(usual_us[n] * (5 if n == slow else 1), 20)) for n, key in keys.items()
            )
        assert changed == {"m": pytest.approx(5.0, rel=0.05)}
        other = 9 - slow
        observe(table, keys[other], times(1.9 * usual_us[other], 1))
        for n, us in usual_us.items():
            wanted = pytest.approx(us * (5 if n == slow else 1), rel=0.1)
            assert table.forward_us("m", 1, n) == wanted

    def test_what_is_observed_at_its_usual_pace_follows_nothing(self, table: LatencyTable) -> None:
        drafting, verifying = ForwardKey("m", 1, 1, num_drafts=4), ForwardKey("m", 5, 1)
        table.profile(drafting, times(900))
        for factor in (1, 3, 3):
            table.observe([(drafting, times(900 * factor, 200)), (verifying, times(300, 190))])
        assert table.drafting_us("m", 5) == pytest.approx(2700, rel=0.1)
        assert table.forward_us("m", 5) == pytest.approx(300, rel=0.1)

    def test_who_follows_does_so_at_the_number_of_sessions_that_was_observed(
        self, table: LatencyTable
    ) -> None:
        drafting, batch = ForwardKey("m", 1, 1, num_drafts=4), ForwardKey("m", 40, 8)
        table.profile(drafting, times(900))
        for key, us in ((ForwardKey("m", 8, 8), 800), (batch, 2400)):
            table.profile(key, times(us))
        table.observe([(drafting, times(900, 1000)), (batch, times(2400, 1000))])
        # Of many kinds, none of which was seen as often as what follows.
        batches = [(batch._replace(context_tokens=64 + n), times(7200, 2)) for n in range(40)]
        for _ in range(2):
            table.observe([(drafting, times(900, 3)), *batches])
        assert table.drafting_us("m", 5) == pytest.approx(2700, rel=0.1)

    def test_a_slow_machine_is_no_slowdown_by_a_drafter(self, table: LatencyTable) -> None:
        alone, beside = ForwardKey("m", 5, 1), ForwardKey("m", 5, 1, beside="d")
        for factor in (1, 3, 3):
            table.observe([(beside, times(360 * factor, 100)), (alone, times(300 * factor, 100))])
        assert table.slowdown("d", "m") == pytest.approx(1.2, rel=0.1)

    @pytest.mark.parametrize("first_us", [300, 4000])
    def test_of_two_times_that_are_far_the_nearer_is_believed(
        self, table: LatencyTable, first_us: int
    ) -> None:
        """The first of them may be of a time that was half over when things changed."""
        observe(table, ForwardKey("m", 1, 1), times(100, 10_000))
        observe(table, ForwardKey("m", 1, 1), times(first_us, 50))
        assert table.forward_us("m", 1) == pytest.approx(100, rel=0.1)
        observe(table, ForwardKey("m", 1, 1), times(1500, 50))
        assert table.forward_us("m", 1) == pytest.approx(min(first_us, 1500), rel=0.1)

    def test_a_block_of_drafts_has_a_time_of_its_own(self, table: LatencyTable) -> None:
        table.profile(ForwardKey("m", 1, 1, num_drafts=4), times(900))
        assert table.drafting_us("m", 1) == pytest.approx(100)
        assert table.drafting_us("m", 3) == pytest.approx(500)
        for num_drafts, us in ((2, 500), (4, 900)):
            observe(table, ForwardKey("m", 2, 1, num_drafts), times(2 * us, 1000))
        assert table.drafting_us("m", 3) == pytest.approx(1000, rel=0.02)
        assert table.forward_us("m", 2) == pytest.approx(150)

    def test_a_wait_beyond_the_drafting_is_the_hop(self, table: LatencyTable) -> None:
        table.profile(ForwardKey("m", 1, 1, num_drafts=4), times(900))
        assert table.hop_us("m", "target") == 100.0
        observe_wait(table, WaitKey("m", "target", 3), times(800, 10_000))
        assert table.hop_us("m", "target") == pytest.approx(300, rel=0.01)
        assert table.hop_us("target", "m") == 100.0

    def test_a_drafter_that_is_slower_is_first_seen_by_who_waits(self, table: LatencyTable) -> None:
        table.profile(ForwardKey("m", 1, 1, num_drafts=4), times(900))
        key = WaitKey("m", "target", 3)
        assert observe_wait(table, key, times(800, 1000)) == 1.0
        assert observe_wait(table, key, times(8000, 10)) == 1.0
        assert table.is_in_doubt("m") and table.is_in_doubt("target")
        assert observe_wait(table, key, times(9000, 10)) == pytest.approx(10.0, rel=0.02)
        assert table.hop_us("m", "target") == pytest.approx(7500, rel=0.01)
        table.forget()
        assert table.hop_us("m", "target") == pytest.approx(7500, rel=0.01), "it is in use"
        table.forget()
        assert table.hop_us("m", "target") > 5000, "it is not over at once"
        for _ in range(20):
            table.forget()
        assert table.hop_us("m", "target") == pytest.approx(300, rel=0.1)

    @pytest.mark.parametrize("factors", [(10,), (4, 16, 16), (3, 2.5, 2, 1.5)])
    def test_a_member_that_drafts_more_slowly_verifies_more_slowly(
        self, table: LatencyTable, factors: tuple[float, ...]
    ) -> None:
        """Suddenly or by and by, and no longer than it drafts so."""
        drafting = ForwardKey("m", 1, 1, num_drafts=4)
        table.profile(drafting, times(900))
        for _ in range(20):
            observe(table, drafting, times(900, 2000))
        for factor in (*factors, 1):
            for _ in range(5):
                observe(table, drafting, times(900 * factor, 20))
            drafting_us = table.drafting_us("m", 5)
            assert drafting_us is not None and (drafting_us > 1200) == (factor > 1)
            assert table.forward_us("m", 5) == pytest.approx(drafting_us / 3, rel=0.15)
        for _ in range(5):
            observe(table, drafting, times(9000, 20))
        for _ in range(20):
            table.forget()
        assert table.forward_us("m", 5) == pytest.approx(300, rel=0.1), "it may be over"

    def test_what_it_shows_when_it_verifies_counts(self, table: LatencyTable) -> None:
        drafting, verifying = ForwardKey("m", 1, 1, num_drafts=4), ForwardKey("m", 5, 1)
        table.profile(drafting, times(900))
        for _ in range(20):
            observe(table, verifying, times(300, 2000))
            observe(table, drafting, times(900, 2000))
        for _ in range(2):
            observe(table, drafting, times(9000, 50))
        assert table.forward_us("m", 5) == pytest.approx(3000, rel=0.1)
        # It is three times slower at this.
        for _ in range(2):
            observe(table, verifying, times(900, 50))
        assert table.forward_us("m", 5) == pytest.approx(900, rel=0.1)
        observe(table, drafting, times(9000, 50))
        assert table.forward_us("m", 5) == pytest.approx(3000, rel=0.2)
        assert table.drafting_us("m", 5) == pytest.approx(9000, rel=0.1)

    def test_what_is_slow_at_a_load_already_is_not_slow_twice(self, table: LatencyTable) -> None:
        drafting = ForwardKey("m", 1, 1, num_drafts=4)
        table.profile(drafting, times(900))
        table.profile(ForwardKey("m", 8, 8), times(800))
        table.profile(ForwardKey("m", 40, 8), times(2400))
        for _ in range(20):
            observe(table, ForwardKey("m", 40, 8), times(2400, 2000))
            observe(table, drafting, times(900, 2000))
        for _ in range(2):
            observe(table, ForwardKey("m", 40, 8), times(7200, 20))
        for _ in range(2):
            observe(table, drafting, times(2700, 20))
        assert table.forward_us("m", 5, 8) == pytest.approx(7200, rel=0.1)
        assert table.forward_us("m", 5, 1) == pytest.approx(900, rel=0.1)

    def test_a_drafter_that_catches_up_while_it_drafts_tells_nothing(
        self, table: LatencyTable
    ) -> None:
        assert observe(table, ForwardKey("m", 30, 1, num_drafts=4), times(9000, 100)) == 1.0
        assert table.forward_us("m", 5) == pytest.approx(300)

    def test_waits_for_blocks_of_any_length_are_one_report(self, table: LatencyTable) -> None:
        table.profile(ForwardKey("m", 1, 1, num_drafts=4), times(900))
        keys = [WaitKey("m", "target", num_proposals) for num_proposals in (2, 4)]
        table.observe_waits((key, times(1000, 100)) for key in keys)
        assert table.observe_waits((key, times(5000, 10)) for key in keys) == {}
        changed = table.observe_waits((key, times(5000, 10)) for key in keys)
        assert changed == {("m", "target"): pytest.approx(5.0, rel=0.05)}
        assert table.hop_us("m", "target") == pytest.approx(5000 - 500, rel=0.02)

    def test_a_hop_that_hardly_matters_does_not_change(self, table: LatencyTable) -> None:
        table.profile(ForwardKey("m", 1, 1, num_drafts=4), times(900))
        for wait_us in (505, 560, 501, 580, 590):
            assert observe_wait(table, WaitKey("m", "target", 3), times(wait_us, 100)) == 1.0
            assert not table.is_in_doubt("m")

    def test_a_verify_beside_a_drafter_may_be_slower(self, table: LatencyTable) -> None:
        assert table.slowdown("d", "m") == 1.0
        observe(table, ForwardKey("m", 3, 1, beside="d"), times(300, 10_000))
        assert table.slowdown("d", "m") == pytest.approx(1.5, rel=0.01)
        assert table.slowdown("other", "m") == 1.0
        assert table.forward_us("m", 3) == pytest.approx(200)

    @pytest.mark.parametrize("is_restored", [False, True])
    def test_what_fewer_threads_cost_is_known_before_it_is_observed(
        self, table: LatencyTable, is_restored: bool
    ) -> None:
        for _ in range(9):
            # The machine is slower than when it was profiled, and so it will have been beside.
            observe(table, ForwardKey("m", 3, 1), times(300, 1000))
        if is_restored:
            observe(table, ForwardKey("m", 3, 1, beside="d"), times(330, 10_000))
            before, table = table.state(), LatencyTable(hop_us=100.0)
            table.restore(before)
            table.profile(ForwardKey("m", 3, 1), times(200))
        table.profile(ForwardKey("m", 3, 1, beside=ANY_DRAFTER), times(360))
        assert table.slowdown("other", "m") == pytest.approx(1.8)
        assert table.slowdown("d", "m") == pytest.approx(1.1 if is_restored else 1.8, rel=0.05)
        for _ in range(1000):
            table.forget()
        assert table.slowdown("d", "m") == pytest.approx(1.8, rel=0.01)
        assert table.slowdown("d", "other") == 1.0

    def test_a_verify_beside_a_drafter_is_compared_with_nothing_that_was_not_profiled(
        self, table: LatencyTable
    ) -> None:
        table.profile(ForwardKey("new", 3, 1, beside=ANY_DRAFTER), times(360))
        observe(table, ForwardKey("new", 3, 1, beside="d"), times(360, 100))
        assert table.slowdown("d", "new") == 1.0

    def test_what_is_not_observed_any_more_is_forgotten(self, table: LatencyTable) -> None:
        table.profile(ForwardKey("m", 1, 1, num_drafts=4), times(900))
        observe(table, ForwardKey("m", 3, 1, beside="d"), times(400, 10_000))
        observe_wait(table, WaitKey("m", "target", 3), times(4000, 10_000))
        for seconds in (10, 500):
            for _ in range(seconds):
                observe(table, ForwardKey("m", 3, 1), times(200))
                observe_wait(table, WaitKey("other", "target", 3), times(500))
                table.forget()
            is_recent = seconds < 60
            assert (table.slowdown("d", "m") > 1.75) == is_recent
            assert (table.hop_us("m", "target") > 2000) == is_recent
        assert table.slowdown("d", "m") == pytest.approx(1.0, rel=0.02)
        assert table.hop_us("m", "target") == pytest.approx(100, rel=0.3)

    def test_of_a_member_that_is_as_fast_as_before_hops_are_as_before(
        self, table: LatencyTable
    ) -> None:
        table.profile(ForwardKey("m", 1, 1, num_drafts=4), times(900))
        observe_wait(table, WaitKey("m", "target", 3), times(900, 10_000))
        observe(table, ForwardKey("m", 3, 1), times(200, 1000))
        before_us = table.hop_us("m", "target")
        assert observe(table, ForwardKey("m", 3, 1), times(1000, 100)) == 1.0, "a hiccup"
        assert observe(table, ForwardKey("m", 3, 1), times(1000, 100)) > 4
        observe_wait(table, WaitKey("m", "target", 3), times(9000, 10_000))
        observe_wait(table, WaitKey("m", "target", 3), times(9000, 10_000))
        assert table.hop_us("m", "target") > 2 * before_us
        assert observe(table, ForwardKey("m", 3, 1), times(200, 100)) == 1.0
        assert observe(table, ForwardKey("m", 3, 1), times(200, 100)) < 0.25
        assert table.hop_us("m", "target") == before_us

    def test_a_batch_has_times_of_its_own(self, table: LatencyTable) -> None:
        assert table.forward_us("m", 1, 4) == pytest.approx(400), "no profile: no gain"
        for rows, us in ((1, 200), (5, 800)):
            table.profile(ForwardKey("m", 4 * rows, 4), times(us))
        assert table.forward_us("m", 3, 4) == pytest.approx(500)
        assert table.forward_us("m", 1, 2) == pytest.approx(100 + 100 / 3)
        assert table.forward_us("m", 1, 8) == pytest.approx(400)
        for rows, us in ((4, 200), (12, 500)):
            observe(table, ForwardKey("m", rows, 4), times(2 * us, 1000))
        assert table.forward_us("m", 5, 4) == pytest.approx(1600, rel=0.05)
        assert table.forward_us("m", 3) == pytest.approx(200)


class TestAgreement:
    pair = PairKey("small", "target", GREEDY)

    def test_an_unknown_pair_has_the_prior(self) -> None:
        expected = sum(PRIOR_AGREEMENT**k for k in range(5))
        assert AgreementTable().curve(self.pair).tokens[4] == pytest.approx(expected)

    @pytest.mark.parametrize("alpha", [0.3, 0.6, 0.9])
    def test_the_expectation_is_the_sum_of_the_survival(self, alpha: float) -> None:
        table = AgreementTable()
        table.record(self.pair, blocks(100_000, 8, alpha))
        expected = sum(alpha**k for k in range(9))
        assert table.curve(self.pair).tokens[8] == pytest.approx(expected, rel=0.03)

    def test_a_drafter_that_is_silent_half_the_time_yields_half_of_it(self) -> None:
        table = AgreementTable()
        survival = blocks(1000, 4, 0.8)
        survival.num_blocks, survival.num_empty = 2000, 1000
        table.record(self.pair, survival)
        full = sum(0.8**k for k in range(5))
        assert table.curve(self.pair).tokens[4] == pytest.approx((1 + full) / 2, rel=0.05)

    def test_survival_may_differ_by_position(self) -> None:
        table = AgreementTable()
        survival = Survival([1000, 900, 90], [900, 90, 90], 1000)
        table.record(self.pair, survival)
        assert table.curve(self.pair).tokens[3] == pytest.approx(1 + 0.9 + 0.09 + 0.09, rel=0.1)

    def test_sampling_regimes_do_not_mix(self) -> None:
        table = AgreementTable()
        table.record(self.pair, blocks(1000, 4, 0.9))
        sampled = PairKey("small", "target", SAMPLED)
        assert table.curve(sampled) == AgreementTable().curve(sampled)

    def test_blocks_count_what_was_reached_only(self) -> None:
        survival = Survival()
        survival.add(4, 2)
        survival.add(4, 4)
        survival.add(0, 0)
        assert (survival.reached, survival.accepted) == ([2, 2, 2, 1], [2, 2, 1, 1])
        assert (survival.num_blocks, survival.num_empty) == (3, 1)


TIMES_US = {"small": 200.0, "medium": 600.0, "target": 3000.0}


def observations(alphas: dict[tuple[str, str], float]) -> Observations:
    found = Observations(is_profile=True)
    for name, (rows, base) in product(TIMES_US, ((1, 1.0), (9, 1.1), (17, 1.2))):
        found.forwards[ForwardKey(name, rows, 1)] = times(TIMES_US[name] * base)
    for name, tokens in product(TIMES_US, (2, 16)):
        found.forwards[ForwardKey(name, 1, 1, tokens - 1)] = times(TIMES_US[name] * tokens)
    for (draft, verifier), alpha in alphas.items():
        for kind in ROOTS:
            found.pairs[PairKey(draft, verifier, kind)] = blocks(2000, 16, alpha)
    return found


def router(alphas: dict[tuple[str, str], float], *lookups: str) -> Router:
    configs = {name: LookupMember(kind="lookup", name=name) for name in lookups}
    made = Router(list(TIMES_US), configs, dict.fromkeys(TIMES_US, "one"), hop_us=100.0)
    made.observe(observations(alphas), 0.0)
    return made


GOOD = {("small", "medium"): 0.8, ("small", "target"): 0.7, ("medium", "target"): 0.85}
BAD = {("small", "medium"): 0.1, ("small", "target"): 0.05, ("medium", "target"): 0.1}


class TestPlanner:
    def test_the_cost_of_a_chain_is_the_formula(self) -> None:
        made = router(GOOD)
        found = next(c for c in made.candidates(GREEDY) if c.chain == ("small", "target"))
        (length,) = found.num_draft_tokens

        def tau(g: int) -> float:
            forward = made.latency.forward_us("target", g + 1)
            assert forward is not None
            tokens = made.agreement.curve(PairKey("small", "target", GREEDY)).tokens[g]
            return (g * 200.0 + forward + 100.0) / tokens

        assert found.predicted_us == pytest.approx(min(map(tau, range(1, 17))))
        assert tau(length) == pytest.approx(found.predicted_us)

    def test_no_chain_costs_less_than_the_best_of_a_full_search(self) -> None:
        made = router(GOOD)
        chain = ("small", "medium", "target")
        best = math.inf
        for lengths in product(range(1, 17), repeat=2):
            plan = to_plan(Candidate(chain, lengths, 1.0), 1)
            prediction = made._planner.predict(plan, Regime(GREEDY))
            assert prediction is not None
            best = min(best, prediction.predicted_us)
        found = next(c for c in made.candidates(GREEDY) if c.chain == chain)
        assert best <= found.predicted_us <= 1.01 * best

    def test_the_target_alone_is_always_a_candidate(self) -> None:
        assert ("target",) in {c.chain for c in router(GOOD, "lookup").candidates(GREEDY)}

    @pytest.mark.parametrize("patience", [0, 1, 16, 17, 1024])
    def test_rounds_of_any_plan_that_a_user_may_state_are_taken(self, patience: int) -> None:
        made = router(GOOD)
        edge = EdgeKnobs(patience=patience, burst=1024, window=1024)
        plan = Plan(chain=("small", "target"), edges=(edge,))
        pace = Pace(10, 30, 10 * 5000.0)
        made.observe(Observations(paces={PaceKey(plan, GREEDY, 1): pace}), 0.0)
        is_predicted = any(
            known.manner.chain == ("small", "target") for known in made.paces.state()
        )
        assert is_predicted == (patience <= 16)

    def test_a_stage_waits_for_its_block_and_takes_what_upstream_overshoots(self) -> None:
        made = router(GOOD)
        found = next(c for c in made.candidates(GREEDY) if len(c.chain) == 3)
        first, second = found.num_draft_tokens
        plan = to_plan(found, 1)
        assert [edge.patience for edge in plan.edges] == [first, second]
        assert plan.edges[1].window == first + second

    def test_with_devices_of_their_own_the_next_block_is_drafted_during_the_verify(self) -> None:
        made = Router(list(TIMES_US), {}, {name: name for name in TIMES_US}, hop_us=100.0)
        made.observe(observations(GOOD), 0.0)
        alone = router(GOOD)
        for together, apart in zip(
            sorted(made.candidates(GREEDY), key=lambda c: c.chain),
            sorted(alone.candidates(GREEDY), key=lambda c: c.chain),
            strict=True,
        ):
            assert (together.predicted_us < apart.predicted_us) == (len(apart.chain) > 1)
        plan = made.plan_of(("small", "target"), GREEDY)
        (edge,) = plan.edges
        assert edge.window == edge.burst + edge.patience + 1

    def test_a_verifier_that_drafting_ahead_slows_down_is_not_overlapped(self) -> None:
        made = Router(list(TIMES_US), {}, {name: name for name in TIMES_US}, hop_us=100.0)
        made.observe(observations(GOOD), 0.0)
        slowed = Observations()
        for draft, verifier in combinations(TIMES_US, 2):
            key = ForwardKey(verifier, 5, 1, beside=draft)
            slowed.forwards[key] = times(2 * TIMES_US[verifier], 1000)
        made.observe(slowed, 0.0)
        assert not any(any(c.aheads) for c in made.candidates(GREEDY))

    def test_members_without_a_known_time_are_in_no_chain(self) -> None:
        made = Router(["small", "target"], {}, {"small": "a", "target": "b"}, hop_us=100.0)
        assert made.candidates(GREEDY) == []


def standing(num_accepted: int, num_rejected: int, usual: float = 0.6) -> Standing:
    """After rounds of four proposals."""
    made = Standing()
    num_rounds = max(1, (num_accepted + num_rejected) // 4)
    for k in range(num_rounds):
        share = [
            n * (k + 1) // num_rounds - n * k // num_rounds for n in (num_accepted, num_rejected)
        ]
        made.add(*share, usual)
    return made


class TestLadder:
    low, usual, high = (
        Rung(scale, Plan(number=number, chain=("target",)), 0.6)
        for number, scale in ((1, 0.5), (2, 1.0), (3, 1.2))
    )
    ladder = Ladder((usual, low, high))

    def test_a_request_begins_with_the_usual_plan(self) -> None:
        assert self.ladder.choose(None, Standing(), HALF_WAY) is self.usual
        assert self.ladder.plan is self.usual.plan

    def test_evidence_moves_it(self) -> None:
        assert self.ladder.choose(self.usual, standing(0, 40), HALF_WAY) is self.low
        assert self.ladder.choose(self.usual, standing(60, 0), HALF_WAY) is self.high
        assert self.ladder.choose(self.low, standing(60, 40), HALF_WAY) is self.usual

    def test_little_evidence_does_not(self) -> None:
        assert self.ladder.choose(self.usual, standing(0, 2), HALF_WAY) is self.usual
        assert self.ladder.choose(self.usual, standing(3, 0), HALF_WAY) is self.usual

    def test_it_does_not_go_to_and_fro_at_a_border(self) -> None:
        between = Standing(accepted=21.0, expected=36.0)
        assert between.scale == pytest.approx(0.75), "half way between 0.5 and 1"
        assert self.ladder.choose(self.usual, between, HALF_WAY) is self.usual
        assert self.ladder.choose(self.low, between, HALF_WAY) is self.low

    def test_what_is_expected_follows_the_plan_that_made_the_proposals(self) -> None:
        assert standing(30, 30, usual=0.5).scale == pytest.approx(1.0)
        assert standing(60, 60, usual=0.9).scale < 0.7

    def test_a_request_that_fell_back_tries_again_in_the_end(self) -> None:
        made = standing(0, 60)
        assert self.ladder.choose(self.usual, made, HALF_WAY) is self.low
        num_rounds = 0
        while self.ladder.choose(self.low, made, HALF_WAY) is self.low:
            made.add(0, 0, 1.0)
            num_rounds += 1
        assert 50 < num_rounds < 500

    def test_one_plan_for_all_stays(self) -> None:
        only = Ladder.only(self.usual.plan)
        assert only.choose(None, standing(0, 1000), HALF_WAY).plan is self.usual.plan


class TestLoad:
    def test_it_rises_at_once_and_falls_when_half_is_idle(self) -> None:
        assert load_index(1, 0) == 0
        assert load_index(3, 0) == LOADS.index(4)
        assert load_index(100, 0) == len(LOADS) - 1
        at_8 = LOADS.index(8)
        assert load_index(5, at_8) == at_8
        assert load_index(4, at_8) == at_8
        assert load_index(2, at_8) == LOADS.index(2)

    def test_it_always_comes_down_to_one_request(self) -> None:
        for present in range(len(LOADS)):
            load = present
            for num_running in range(LOADS[present], 0, -1):
                load = load_index(num_running, load)
            assert load <= 1
            assert load_index(0, load) == 0


class TestRouter:
    def test_drafters_that_agree_are_used(self) -> None:
        made = router(GOOD)
        table = made.decide(0.0)
        assert table is not None
        assert table.plan(GREEDY).chain == ("small", "medium", "target")

    def test_drafters_that_never_agree_are_left_out(self) -> None:
        made = router(BAD)
        made.decide(0.0)
        assert made.table.plan(GREEDY).chain == ("target",)

    def test_a_gain_too_small_to_be_sure_of_is_not_taken(self) -> None:
        made = router({**BAD, ("small", "target"): 0.14, ("medium", "target"): 0.05})
        alone, *_ = (c for c in made.candidates(GREEDY) if c.chain == ("target",))
        best = made.candidates(GREEDY)[0]
        assert 0.95 < best.predicted_us / alone.predicted_us < 1.0
        made.decide(0.0)
        assert made.table.plan(GREEDY).chain == ("target",)

    def test_a_chain_that_promises_a_loss_is_left_however_small_it_is(self) -> None:
        made = router({**BAD, ("small", "target"): 0.3})
        made.decide(0.0)
        assert made.table.plan(GREEDY).chain == ("small", "target")
        for _ in range(8):
            made.observe(observations({("small", "target"): 0.08}), 0.0)
        chains = {c.chain: c.predicted_us for c in made.candidates(GREEDY)}
        assert 1.0 < chains["small", "target"] / chains["target",] < 1.05
        made.decide(0.0)
        assert made.table.plan(GREEDY).chain == ("small", "target"), "it may be a hiccup"
        made.decide(0.5)
        assert made.table.plan(GREEDY).chain == ("target",)

    def test_a_chain_that_is_far_better_is_taken_at_once(self) -> None:
        made = router(BAD)
        made.decide(0.0)
        assert made.table.plan(GREEDY).chain == ("target",)
        for _ in range(8):
            made.observe(observations(GOOD), 0.0)
        made.decide(0.0)
        assert made.table.plan(GREEDY).chain == ("small", "medium", "target")

    def test_it_is_seldom_time_to_decide_while_all_is_as_it_was(self) -> None:
        made = router(GOOD)
        assert made.is_due(0.0), "the first time"
        made.decide(10.0)
        assert not made.is_due(11.0)
        assert made.is_due(12.5)
        assert made.is_due(-100.0), "the clock was set back"

    def test_it_is_time_at_once_when_a_member_has_become_slower(self) -> None:
        made = router(GOOD)
        slow = Observations()
        slow.forwards[ForwardKey("small", 1, 1)] = times(5 * TIMES_US["small"], 100)
        usual = Observations()
        usual.forwards[ForwardKey("small", 1, 1)] = times(TIMES_US["small"], 100)
        made.observe(usual, 0.0)
        made.decide(10.0)
        assert not made.latency.is_in_doubt("small")
        made.observe(slow, 10.1)
        assert not made.is_due(10.1), "it may be a hiccup"
        assert made.latency.is_in_doubt("small")
        made.observe(slow, 10.6)
        assert made.is_due(10.6)
        assert not made.latency.is_in_doubt("small")

    def test_it_is_time_at_once_when_a_better_chain_waits_to_be_confirmed(self) -> None:
        made = router({**BAD, ("small", "target"): 0.3})
        made.decide(0.0)
        for _ in range(8):
            made.observe(observations({("small", "target"): 0.08}), 0.0)
        made.decide(0.0)
        assert made.is_due(0.5)
        # The same holds of other loads, which are weighed in turn.
        for turn in range(1, 120):
            made.decide(turn / 2)
        assert not made.is_due(60.0)

    def test_nothing_is_handed_out_when_nothing_has_changed(self) -> None:
        made = router(GOOD)
        assert made.decide(0.0) is not None
        assert made.decide(0.0) is None

    def test_numbers_of_plans_only_grow(self) -> None:
        made = router(GOOD)
        made.decide(0.0)
        before = made.table
        made.observe(observations(BAD), 0.0)
        for _ in range(5):
            made.observe(observations(BAD), 0.0)
        assert made.decide(0.0) is not None
        assert made.table.plan(GREEDY).number > before.plan(GREEDY).number

    def test_requests_that_agree_less_get_shorter_blocks_and_at_last_none(self) -> None:
        made = router(GOOD)
        made.decide(0.0)
        ladder = made.table.of(GREEDY)[0]
        rungs = sorted(ladder.rungs, key=lambda rung: rung.scale)
        assert rungs[0].plan.chain == ("target",)
        lengths = [rung.plan.edges[-1].patience if rung.plan.edges else 0 for rung in rungs]
        assert lengths == sorted(lengths)
        assert len(set(lengths)) > 2

    def test_under_load_where_rows_cost_what_they_are_the_target_is_alone(self) -> None:
        made = router(GOOD)
        busy = Observations(is_profile=True)
        for name, rows in product(TIMES_US, (1, 5, 9)):
            busy.forwards[ForwardKey(name, 16 * rows, 16)] = times(TIMES_US[name] * 16 * rows)
            busy.forwards[ForwardKey(name, 16, 16, rows)] = times(TIMES_US[name] * 16 * rows)
        made.observe(busy, 0.0)
        made.decide(0.0)
        assert made.table.plan(GREEDY, load=0).chain == ("small", "medium", "target")
        assert made.table.plan(GREEDY, load=LOADS.index(16)).chain == ("target",)

    def test_all_plans_of_a_table_have_its_number(self) -> None:
        made = router(GOOD)
        table = made.decide(0.0)
        assert table is not None
        ladders = [ladder for ladders in table.ladders.values() for ladder in ladders]
        numbers = {rung.plan.number for ladder in ladders for rung in ladder.rungs}
        assert numbers == {table.plan(GREEDY).number}
        assert all(ladder.plan in [r.plan for r in ladder.rungs] for ladder in ladders)

    def test_a_named_chain_gets_its_best_lengths(self) -> None:
        made = router(GOOD)
        plan = made.plan_of(("small", "target"), GREEDY)
        found = next(c for c in made.candidates(GREEDY) if c.chain == ("small", "target"))
        assert plan.edges[0].patience == found.num_draft_tokens[0]
