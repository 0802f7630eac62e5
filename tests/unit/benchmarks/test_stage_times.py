"""What the benchmark of synthetic pools calls theory."""

from itertools import product

import pytest

from benchmarks.stage_times import StageTimes, stated_agreement
from specrouter_dist.config import EdgeKnobs, Plan
from specrouter_dist.pools.loading import load_pool
from specrouter_dist.routing.costs import Regime
from specrouter_dist.routing.observations import PairKey
from specrouter_dist.routing.traffic import GREEDY

POOL = load_pool("synthetic-mini")
STEP_US = {"small": 100.0, "medium": 300.0, "target": 1000.0}


def times() -> StageTimes:
    """Steps that take as long whatever they feed."""
    samples = {(name, rows, 0): [us] for (name, us), rows in product(STEP_US.items(), (17, 4, 1))}
    for name, num_drafts in product(("small", "medium"), (1, 3, 7, 15)):
        samples[name, 1, num_drafts] = [STEP_US[name] * (num_drafts + 1)]
    return StageTimes(samples, 64, "target", 1)


@pytest.mark.parametrize(("draft", "agreement"), [("small", 0.6), ("medium", 0.8)])
def test_theory_of_a_pair_is_the_formula(draft: str, agreement: float) -> None:
    planner = times().planner(POOL, dict.fromkeys(STEP_US, "one"))
    knobs = EdgeKnobs(window=3, burst=3, patience=3)
    found = planner.predict(Plan(chain=(draft, "target"), edges=(knobs,)), Regime(GREEDY))
    assert found is not None
    num_tokens = sum(agreement**k for k in range(4))
    expected = (3 * STEP_US[draft] + STEP_US["target"]) / num_tokens
    assert found.predicted_us == pytest.approx(expected, rel=1e-4)


def test_agreements_are_the_stated_ones() -> None:
    table = stated_agreement(POOL)
    assert table.curve(PairKey("small", "medium", GREEDY)).mean == pytest.approx(0.65, abs=1e-3)


def test_times_of_two_turns_are_one() -> None:
    later = StageTimes(
        {key: [us * 3, us * 5] for key, (us,) in times().samples_us.items()}, 64, "target", 1
    )
    assert (times() + later).alone_us == 3000.0
