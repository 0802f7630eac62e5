"""Drafters that are not there are in no plan, and are planned with again when they are back."""

from specrouter_dist.routing.router import Router
from specrouter_dist.routing.traffic import GREEDY
from tests.unit.routing.test_router import GOOD, router


def planned(made: Router) -> set[str]:
    """Members of all plans of all kinds, loads and scales."""
    return {
        member
        for ladders in made.table.ladders.values()
        for ladder in ladders
        for rung in ladder.rungs
        for member in rung.plan.chain
    }


def decide(made: Router, turn_s: float) -> None:
    """Twice: what is better by little is confirmed in the next turn."""
    made.decide(turn_s)
    made.decide(turn_s + 0.1)


def test_plans_leave_who_is_away_at_once() -> None:
    made = router(GOOD)
    decide(made, 1.0)
    assert {"small", "target"} <= planned(made)
    number = made.number
    made.set_away({"small"})
    assert made.is_due(1.2)
    assert made.decide(1.2) is not None
    assert "small" not in planned(made)
    assert made.number > number
    made.set_away({"small", "medium"})
    decide(made, 1.4)
    assert planned(made) == {"target"}
    assert [way.chain for way in made.candidates(GREEDY)] == [("target",)]


def test_who_is_back_is_planned_with_again() -> None:
    made = router(GOOD)
    decide(made, 1.0)
    before = planned(made)
    made.set_away({"small", "medium"})
    decide(made, 2.0)
    made.set_away(())
    decide(made, 3.0)
    assert planned(made) == before


def test_a_named_chain_may_have_members_that_are_away() -> None:
    made = router(GOOD)
    made.set_away({"small"})
    assert made.plan_of(("small", "target"), GREEDY).chain == ("small", "target")
