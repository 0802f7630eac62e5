"""How near a lossy setting comes to what is wanted."""

from array import array
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from benchmarks.losses import ALONE, BLOCKS, LOSSLESS, Arm, Output, Pass, compare, nearness
from specrouter_dist.config import LossyParams, SamplingParams
from specrouter_dist.serving.results import TierMetrics

LOSSY = Arm("slim 0.6,0.3", ("small", "slim", "target"), LossyParams(), 5)
ARMS = [Arm(ALONE, ("target",)), Arm(BLOCKS, ("small", "target"), None, 5), LOSSY]


@pytest.mark.parametrize(
    ("differing", "increase", "reductions", "is_reached"),
    [
        (0.05, 0.05, (0.1, 0.0, 0.3, -0.2), True),
        (0.05, 0.05, (0.09, 0.0, 0.3, -0.2), False),
        (0.05, 0.05, (0.1, None, 0.3, None), True),
        (0.06, 0.05, (0.1, 0.2, 0.3, 0.4), False),
        (0.05, 0.06, (0.1, 0.2, 0.3, 0.4), False),
    ],
)
def test_all_of_it_at_one_setting(
    differing: float, increase: float, reductions: tuple[float | None, ...], is_reached: bool
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
    assert found["num_tasks_lower"] == sum((each or 0.0) >= 0.1 for each in reductions)


def test_outputs_in_which_nothing_was_drafted_or_checked() -> None:
    tiers = TierMetrics(3, 0, 0, 0, 0, 0, 0, None, None, None)
    metrics = SimpleNamespace(num_rounds=3, levels=[])
    result = SimpleNamespace(tiers=tiers, metrics=metrics, tokens_per_second=1.0)
    read = {name: np.zeros(3) for name in ("nll", "differs", "overshoot")}
    names = (ALONE, LOSSLESS, BLOCKS, LOSSY.name)
    output = Output(array("i", [1]), SamplingParams(), cast(Any, result))
    passes = [Pass("task", dict.fromkeys(names, output), dict.fromkeys(names, read))]
    found = compare(passes, [*ARMS, Arm(LOSSLESS, ("small", "target"))])
    assert found[LOSSY.name]["share_disagreeing"] is None
    assert found[LOSSY.name]["rejection_reduction"] is None
