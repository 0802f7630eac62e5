"""The planner's rounds of an upstream that drafts ahead, against the simulator's."""

import statistics
from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
import pytest

from specrouter_dist.config import EdgeKnobs, Plan
from specrouter_dist.routing.costs import Regime
from specrouter_dist.routing.traffic import GREEDY
from specrouter_dist.simulation.oracle import Oracle
from specrouter_dist.simulation.profile import Profile
from specrouter_dist.simulation.search import plan_of, taught_planner
from specrouter_dist.simulation.steady import token_us

TARGET_MS = 10.0
NUM_TOKENS = 4000


def profile(
    drafters: Sequence[float], agreements: dict[tuple[str, str], float], hop_us: float
) -> Profile:
    """``drafters``: their times per token over the target's."""
    names = [f"drafter{k}" for k in range(len(drafters))]
    members = [
        {"name": name, "step": {"base_ms": TARGET_MS * share}}
        for name, share in zip(names, drafters, strict=True)
    ]
    members.append({"name": "target", "role": "target", "step": {"base_ms": TARGET_MS}})
    found = [
        {"draft": draft, "verifier": verifier, "agreement": agreement, "burstiness": 0.3}
        for (draft, verifier), agreement in agreements.items()
    ]
    return Profile.model_validate(
        {
            "name": "runs",
            "members": members,
            "agreements": found,
            "hop_us": hop_us,
            "workload": {"num_requests": 1, "concurrency": 1},
        }
    )


def gap(of: Profile, plans: Sequence[Plan]) -> list[float]:
    """By what share the planner is off, for each plan."""
    oracle = Oracle(of)
    planner = taught_planner(of, oracle)
    gaps = []
    for plan in plans:
        prediction = planner.predict(plan, Regime(GREEDY))
        assert prediction is not None
        gaps.append(prediction.predicted_us / token_us(of, oracle, plan, NUM_TOKENS) - 1)
    return gaps


def random_plans(chain: tuple[str, ...], count: int) -> Iterator[Plan]:
    """Any lengths, bursts and windows."""
    rng = np.random.default_rng(0)
    for _ in range(count):
        patience = rng.integers(1, 9, len(chain) - 1).tolist()
        aheads = rng.choice([0, 1, 2, 4], len(chain) - 1).tolist()
        plan = plan_of(chain, patience, aheads)
        burst = [edge.burst + int(rng.integers(0, 3)) for edge in plan.edges]
        edges = (
            EdgeKnobs(
                patience=edge.patience,
                burst=most,
                window=max(most, edge.window),
                patience_ms=edge.patience_ms,
            )
            for edge, most in zip(plan.edges, burst, strict=True)
        )
        yield plan.model_copy(update={"edges": tuple(edges)})


@pytest.mark.parametrize(
    ("upstream", "agreement", "hop_us"),
    [(0.04, 0.6, 0.0), (0.12, 0.85, 500.0), (0.35, 0.75, 100.0), (0.2, 0.93, 1000.0)],
)
def test_two_levels(upstream: float, agreement: float, hop_us: float) -> None:
    of = profile([upstream], {("drafter0", "target"): agreement}, hop_us)
    gaps = gap(of, list(random_plans(("drafter0", "target"), 8)))
    assert statistics.median(map(abs, gaps)) < 0.04
    assert max(map(abs, gaps)) < 0.15


@pytest.mark.timeout(300)
def test_three_levels() -> None:
    chain = ("drafter0", "drafter1", "target")
    agreements = dict(zip([*pairwise(chain), (chain[0], chain[2])], (0.8, 0.8, 0.7), strict=True))
    gaps = gap(profile([0.02, 0.12], agreements, 100.0), list(random_plans(chain, 10)))
    assert statistics.median(map(abs, gaps)) < 0.07
    assert max(map(abs, gaps)) < 0.2


def test_a_burst_beyond_what_is_waited_for_pays_where_upstream_is_fast() -> None:
    """What `lookup -> medium -> target [6, 2 ahead]` was found to gain by a sweep."""
    of = profile([0.06], {("drafter0", "target"): 0.85}, 100.0)
    short, long, both = (
        plan_of(("drafter0", "target"), [length], [ahead])
        for length, ahead in ((2, 1), (8, 1), (4, 4))
    )
    planner, oracle = taught_planner(of, Oracle(of)), Oracle(of)
    for plans in ((short, both), (long, both)):
        simulated = [token_us(of, oracle, plan, NUM_TOKENS) for plan in plans]
        predicted = [planner.predict(plan, Regime(GREEDY)) for plan in plans]
        assert simulated[1] < simulated[0]
        assert predicted[1].predicted_us < predicted[0].predicted_us  # type: ignore[union-attr]
