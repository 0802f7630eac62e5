"""A request's way along the plans, and what is told of its pace."""

import pytest

from specrouter_dist.config import EdgeKnobs, Plan
from specrouter_dist.routing.climbing import Climb
from specrouter_dist.routing.observations import Observations
from specrouter_dist.routing.plans import Ladder, Rung
from specrouter_dist.routing.switching import Progress
from specrouter_dist.routing.traffic import GREEDY
from specrouter_dist.speculation.steps import StageCounts

HALF_WAY = Progress(100, 100)
KNOBS = EdgeKnobs(window=4, burst=4, patience=4)
FIRST, SECOND = (
    Plan(number=number, chain=("small", "target"), edges=(KNOBS,)) for number in (1, 2)
)
ALONE = Plan(number=3, chain=("target",))


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def climb(clock: Clock) -> Climb:
    return Climb(GREEDY, clock)


def go(climb: Climb, clock: Clock, num_rounds: int, counts: StageCounts | None = None) -> None:
    for _ in range(num_rounds):
        clock.now += 0.010
        climb.on_round(counts or StageCounts(), 3)


def test_the_time_of_the_first_rounds_is_not_told(climb: Climb, clock: Clock) -> None:
    seen = Observations()
    climb.board(Ladder.only(FIRST), 0, HALF_WAY, seen)
    go(climb, clock, 12)
    climb.leave(seen)
    ((key, pace),) = seen.paces.items()
    assert (key.plan, key.traffic, key.num_sessions) == (FIRST, GREEDY, 1)
    assert (pace.num_rounds, pace.num_tokens) == (10, 30)
    assert pace.total_us == pytest.approx(100_000)


def test_alone_the_target_makes_a_round_for_every_token(climb: Climb, clock: Clock) -> None:
    seen = Observations()
    climb.board(Ladder.only(ALONE), 0, HALF_WAY, seen)
    go(climb, clock, 12)
    climb.leave(seen)
    (pace,) = seen.paces.values()
    assert (pace.num_rounds, pace.num_tokens) == (30, 30)


def test_every_plan_and_load_is_timed_by_itself(climb: Climb, clock: Clock) -> None:
    seen, ladder = Observations(), Ladder.only(FIRST)
    climb.board(ladder, 0, HALF_WAY, seen)
    go(climb, clock, 5)
    climb.board(ladder, 2, HALF_WAY, seen)
    go(climb, clock, 5)
    climb.board(Ladder.only(SECOND), 2, HALF_WAY, seen)
    go(climb, clock, 5)
    climb.leave(seen)
    assert [(k.plan.number, k.num_sessions) for k in seen.paces] == [(1, 1), (1, 4), (2, 4)]
    assert [pace.num_rounds for pace in seen.paces.values()] == [3, 3, 3]


def test_boarding_the_same_again_changes_nothing(climb: Climb, clock: Clock) -> None:
    seen, ladder = Observations(), Ladder.only(FIRST)
    for _ in range(10):
        climb.board(ladder, 0, HALF_WAY, seen)
        go(climb, clock, 1)
    climb.leave(seen)
    assert [pace.num_rounds for pace in seen.paces.values()] == [8]


def test_a_short_stay_tells_nothing(climb: Climb, clock: Clock) -> None:
    seen = Observations()
    climb.board(Ladder.only(FIRST), 0, HALF_WAY, seen)
    go(climb, clock, 2)
    climb.leave(seen)
    climb.leave(seen)
    assert seen.paces == {}


def test_what_a_request_agreed_on_goes_with_it_to_the_next_ladder(
    climb: Climb, clock: Clock
) -> None:
    seen, counts = Observations(), StageCounts()
    climb.board(Ladder((Rung(1.0, FIRST, 0.9), Rung(0.3, SECOND))), 0, HALF_WAY, seen)
    for _ in range(40):
        counts.add_round(4, 0, rejected=True)
        go(climb, clock, 1, counts)
    other = Plan(number=3, chain=("target",))
    assert (
        climb.board(Ladder((Rung(1.0, FIRST, 0.5), Rung(0.3, other))), 0, HALF_WAY, seen) is other
    )


def test_it_need_not_look_again_where_there_is_one_plan(climb: Climb, clock: Clock) -> None:
    seen, ladder = Observations(), Ladder.only(FIRST)
    assert not climb.is_settled(ladder, 0), "it has not begun"
    climb.board(ladder, 0, HALF_WAY, seen)
    assert climb.is_settled(ladder, 0)
    assert not climb.is_settled(ladder, 2), "the load has changed"
    assert not climb.is_settled(Ladder.only(SECOND), 0), "the plan has"
    two = Ladder((*ladder.rungs, Rung(0.5, ALONE)))
    climb.board(two, 0, HALF_WAY, seen)
    assert not climb.is_settled(two, 0), "it may agree less"
    climb.leave(seen)
    assert not climb.is_settled(ladder, 0)
