"""What the time of a turn is compared with."""

from array import array

from specrouter_dist.routing.observations import ForwardKey
from specrouter_dist.speculation.messages import TOKEN_TYPECODE
from specrouter_dist.speculation.steps import Step
from tests.unit.worker.test_replan import Pool


def step(start: int, num_rows: int) -> Step:
    return Step(start, array(TOKEN_TYPECODE, [0] * num_rows), 1, num_rows - 1, 0)


def test_it_says_what_the_sessions_held_in_the_mean() -> None:
    pool = Pool()
    batch = [(pool.target, step(100, 3)), (pool.target, step(412, 5))]
    expected = ForwardKey("target", 8, 2, context_tokens=256)
    assert pool.hosts["target"].turn_key(batch) == expected
