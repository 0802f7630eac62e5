"""The planner against an exhaustive search, on pools that are small enough for a test."""

import pytest

from specrouter_dist.config import Plan
from specrouter_dist.routing.costs import Regime
from specrouter_dist.routing.planner import to_plan
from specrouter_dist.routing.traffic import GREEDY
from specrouter_dist.simulation.oracle import Oracle
from specrouter_dist.simulation.profile import Profile
from specrouter_dist.simulation.search import (
    all_plans,
    neighbours,
    plan_of,
    random_profile,
    taught_planner,
)
from specrouter_dist.simulation.steady import token_us
from tests.unit.simulation.profiles import lock_step, member, profile

NAMES = ("small", "medium", "target")


def test_all_chains_are_searched_in_lock_step_and_ahead() -> None:
    plans = list(all_plans(NAMES))
    assert len(set(plans)) == len(plans)
    chains = {plan.chain for plan in plans}
    assert chains == {("target",), ("small", "target"), ("medium", "target"), NAMES}
    ahead = {
        tuple(edge.window > edge.burst for edge in plan.edges)
        for plan in plans
        if plan.chain == NAMES
    }
    assert ahead == {(False, False), (False, True), (True, True)}


def test_neighbours_differ_in_one_knob_of_one_edge() -> None:
    plan = plan_of(NAMES, (3, 5), (0, 2))
    knobs = [tuple(edge.model_dump().values()) for edge in plan.edges]
    found = list(neighbours(plan))
    assert len(found) > 20
    for other in found:
        theirs = [tuple(edge.model_dump().values()) for edge in other.edges]
        both = zip(knobs, theirs, strict=True)
        assert sum(a != b for one, two in both for a, b in zip(one, two, strict=True)) == 1


@pytest.mark.parametrize("alpha", [0.3, 0.8, 0.95])
@pytest.mark.parametrize("hop_us", [0.0, 2000.0])
def test_lock_step_is_predicted_to_the_percent(alpha: float, hop_us: float) -> None:
    pool = profile(agreements={("small", "target"): alpha}, hop_us=hop_us)
    oracle = Oracle(pool)
    planner = taught_planner(pool, oracle)
    for length in (1, 5):
        plan = lock_step("small", "target", lengths=(length,))
        predicted = planner.predict(plan, Regime(GREEDY))
        assert predicted is not None
        assert token_us(pool, oracle, plan, 2000) == pytest.approx(predicted.predicted_us, rel=0.05)


def test_pools_are_random_by_seed() -> None:
    assert random_profile(3) == random_profile(3)
    assert len({len(random_profile(seed).members) for seed in range(8)}) == 3


def small_pools() -> list[Profile]:
    return [
        profile(agreements={("small", "target"): 0.9}),
        profile(agreements={("small", "target"): 0.05}),
        profile(NAMES, hop_us=300.0),
        profile(
            agreements={("small", "target"): 0.7},
            members=[member("small", device="gpu"), member("target", device="gpu")],
        ),
    ]


@pytest.mark.parametrize("index", range(4))
def test_the_planner_loses_little(index: int) -> None:
    pool = small_pools()[index]
    oracle = Oracle(pool)
    chosen = to_plan(taught_planner(pool, oracle).candidates(Regime(GREEDY))[0], 0)
    names = [member.name for member in pool.members]
    grid = [plan for plan in all_plans(names) if len(plan.edges) == 1][::2]
    grid += [plan_of(NAMES, lengths, (0, 1)) for lengths in ((2, 4), (4, 4))][
        : 2 * (len(names) == 3)
    ]
    grid.append(Plan(chain=("target",)))
    times = {plan: token_us(pool, oracle, plan, 1000) for plan in (chosen, *grid)}
    assert times[chosen] <= 1.03 * min(times.values())
