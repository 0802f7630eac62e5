"""How near a lossy setting comes to what is wanted."""

from typing import Any

import pytest

from benchmarks.losses import ALONE, BLOCKS, Arm, nearness
from specrouter_dist.config import LossyParams

LOSSY = Arm("slim 0.6,0.3", ("small", "slim", "target"), LossyParams(), 5)
ARMS = [Arm(ALONE, ("target",)), Arm(BLOCKS, ("small", "target"), None, 5), LOSSY]


@pytest.mark.parametrize(
    ("differing", "increase", "reductions", "is_reached"),
    [
        (0.05, 0.05, (0.1, 0.0, 0.3, -0.2), True),
        (0.05, 0.05, (0.09, 0.0, 0.3, -0.2), False),
        (0.06, 0.05, (0.1, 0.2, 0.3, 0.4), False),
        (0.05, 0.06, (0.1, 0.2, 0.3, 0.4), False),
    ],
)
def test_all_of_it_at_one_setting(
    differing: float, increase: float, reductions: tuple[float, ...], is_reached: bool
) -> None:
    whole: dict[str, Any] = {
        LOSSY.name: {"share_differing": differing, "nll_increase": increase},
    }
    by_task = {
        f"task-{i}": {LOSSY.name: {"rejection_reduction": reduction}}
        for i, reduction in enumerate(reductions)
    }
    (found,) = nearness(whole, by_task, ARMS).values()
    assert found["is_reached"] == is_reached
    assert found["num_tasks_lower"] == sum(each >= 0.1 for each in reductions)
