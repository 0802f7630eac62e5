"""What a request remembers of the plans it went with."""

from array import array

from specrouter_dist.config import Plan
from specrouter_dist.links.control import Output
from specrouter_dist.links.decoding import decode
from specrouter_dist.links.encoding import encode
from specrouter_dist.routing.planner import Candidate, to_plan
from specrouter_dist.speculation.messages import TOKEN_TYPECODE
from specrouter_dist.worker.stats import MAX_PLANS, Plans

ALONE = Plan(chain=("target",))


def chained(length: int, number: int = 0, us: float = 1e4) -> Plan:
    return to_plan(Candidate(("small", "target"), (length,), us, (2,), (6,)), number)


def test_a_plan_is_noted_with_its_round_and_again_only_when_it_is_another() -> None:
    plans = Plans()
    plans.note(ALONE, 0)
    plans.note(chained(3), 4)
    # Another number, and other patience since the prediction changed.
    plans.note(chained(3, number=7, us=9e5), 9)
    plans.note(chained(4), 11)
    assert plans.noted == (
        (0, (("target",), (), (), (), ())),
        (4, (("small", "target"), (3,), (6,), (True,), (6,))),
        (11, (("small", "target"), (4,), (8,), (True,), (6,))),
    )


def test_they_are_read_as_they_were_sent() -> None:
    plans = Plans()
    plans.note(ALONE, 0)
    plans.note(chained(3), 4)
    sent = Output(1, 0, array(TOKEN_TYPECODE), "stop", (), {"plans": plans.noted})
    assert decode(encode([sent])) == [sent]


def test_of_many_plans_the_newest_are_kept() -> None:
    plans = Plans()
    for i in range(3 * MAX_PLANS):
        plans.note(chained(1 + i % 2), i)
    assert [plan[0] for plan in plans.noted] == list(range(2 * MAX_PLANS, 3 * MAX_PLANS))
