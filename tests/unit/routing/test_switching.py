"""A request changes its chain only if its rest pays for the newcomers' prefill."""

import pytest

from specrouter_dist.config import EdgeKnobs, Plan
from specrouter_dist.routing.climbing import Climb
from specrouter_dist.routing.observations import Observations
from specrouter_dist.routing.plans import LOADS, Ladder, Rung, Standing
from specrouter_dist.routing.switching import Progress, Switching
from specrouter_dist.routing.traffic import GREEDY
from tests.unit.routing.learned import learned_router

ALONE, SMALL, MEDIUM = ("target",), ("small", "target"), ("medium", "target")
BOTH = ("small", "medium", "target")
# A token costs 40 us less with the medium one, whose prefill is 10 us a token.
SWITCHING = Switching(
    {ALONE: 200.0, SMALL: 140.0, MEDIUM: 100.0}, {"small": 1.0, "medium": 10.0, "target": 30.0}
)
LONG, SHORT = Progress(200, 51), Progress(200, 49)
FAILING, FINE = Standing(0.0, 60.0), Standing(60.0, 60.0)


def plan(chain: tuple[str, ...], length: int = 4) -> Plan:
    knobs = EdgeKnobs(window=length, burst=length, patience=length)
    return Plan(chain=chain, edges=(knobs,) * (len(chain) - 1))


class TestPaying:
    def test_the_gain_over_the_rest_is_weighed_against_the_prefill(self) -> None:
        assert SWITCHING.pays(SMALL, MEDIUM, LONG)
        assert not SWITCHING.pays(SMALL, MEDIUM, SHORT)

    def test_a_longer_text_costs_more_prefill(self) -> None:
        assert not SWITCHING.pays(SMALL, MEDIUM, Progress(220, 51))

    def test_who_is_there_already_costs_nothing(self) -> None:
        switching = Switching({BOTH: 100.0, MEDIUM: 99.0}, SWITCHING.prefill_us)
        assert switching.pays(BOTH, MEDIUM, SHORT)
        assert SWITCHING.pays(MEDIUM, ALONE, SHORT), "the target alone is the router's choice"

    def test_what_nobody_has_predicted_is_left_at_any_price(self) -> None:
        assert SWITCHING.pays(("tiny", "target"), SMALL, SHORT)

    def test_a_lookup_has_nothing_to_prefill(self) -> None:
        switching = Switching({ALONE: 200.0, ("lookup", "target"): 199.0}, SWITCHING.prefill_us)
        assert switching.pays(ALONE, ("lookup", "target"), Progress(5000, 1))


class TestChoosing:
    usual = Rung(1.0, plan(SMALL), 0.9, SWITCHING)
    less = Rung(0.7, plan(SMALL, 2), 0.9, SWITCHING)
    other = Rung(0.3, plan(MEDIUM), 0.9, SWITCHING)
    ladder = Ladder((usual, less, other))

    def test_a_long_rest_changes_the_chain(self) -> None:
        assert self.ladder.choose(self.usual, FAILING, LONG) is self.other

    def test_a_short_one_only_the_knobs(self) -> None:
        assert self.ladder.choose(self.usual, FAILING, SHORT) is self.less

    def test_other_knobs_are_free(self) -> None:
        last_token = Progress(100_000, 1)
        assert self.ladder.choose(self.usual, Standing(0.0, 12.0), last_token) is self.less
        assert self.ladder.choose(self.less, FINE, last_token) is self.usual

    def test_a_request_begins_where_the_router_says(self) -> None:
        assert self.ladder.choose(None, FINE, Progress(100_000, 1)) is self.usual

    def test_it_keeps_its_plan_where_the_new_ladder_lacks_its_chain(self) -> None:
        new = Ladder((Rung(1.0, plan(MEDIUM), 0.9, SWITCHING),))
        climb, seen = Climb(GREEDY, lambda: 0.0), Observations()
        before = climb.board(self.ladder, 0, SHORT, seen)
        assert climb.board(new, 0, SHORT, seen) is before
        assert climb.board(new, 0, LONG, seen).chain == MEDIUM

    def test_a_plan_that_a_user_named_is_taken_at_once(self) -> None:
        only = Ladder.only(plan(MEDIUM))
        assert only.choose(self.usual, FINE, SHORT).plan.chain == MEDIUM


def test_the_router_says_what_each_change_gains_and_costs() -> None:
    router = learned_router()
    rungs = router.table.of(GREEDY)[0].rungs
    assert len(rungs) > 1
    for rung in rungs:
        token_us, prefill_us = rung.switching.token_us, rung.switching.prefill_us
        assert {ALONE, rung.plan.chain} <= token_us.keys()
        chunks_us = {name: router.latency.forward_us(name, 128) for name in prefill_us}
        assert prefill_us == pytest.approx(
            {name: us / 128 for name, us in chunks_us.items() if us is not None}
        )
        assert prefill_us.keys() == set(rung.plan.chain) - {"lookup"}
    low = min(rungs, key=lambda rung: rung.scale)
    usual = next(rung for rung in rungs if rung.scale == 1.0)
    chain = usual.plan.chain
    assert low.switching.token_us[chain] > usual.switching.token_us[chain], "it agrees less"


def test_under_load_the_time_of_devices_is_in_the_price() -> None:
    router = learned_router()
    alone, busy = (router.table.of(GREEDY)[at].usual.switching for at in (0, -1))
    assert busy.prefill_us["target"] > alone.prefill_us["target"]
    weighed = {way.chain: way for way in router.weighed(GREEDY, LOADS[-1])}
    for chain, way in weighed.items():
        assert busy.token_us[chain] > way.predicted_us
