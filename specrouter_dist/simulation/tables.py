"""Makes the table of what drafting ahead does to the time per token.

    python -m specrouter_dist.simulation.tables

simulates a drafter and a target at every point of a grid and writes
``specrouter_dist/routing/async_cost.json``, in about ten minutes on one core.
"""

import json
from itertools import product
from math import prod
from typing import Any

import numpy as np
from tqdm import tqdm

from specrouter_dist.config import EdgeKnobs, Plan
from specrouter_dist.routing.async_cost import TABLE_FILE
from specrouter_dist.simulation.profile import Profile
from specrouter_dist.simulation.world import World

AGREEMENT = (0.3, 0.5, 0.65, 0.8, 0.9, 0.97)
UPSTREAM = (0.02, 0.05, 0.1, 0.2, 0.4, 0.8)
HOP = (0.0, 0.05, 0.15, 0.4)
DRAFT_TOKENS = (1, 2, 3, 4, 6, 8, 12, 16)
NUM_TOKENS = 3000
_VERIFY_MS = 10.0
_DIGITS = 3


def ratio(agreement: float, upstream: float, hop: float, num_draft_tokens: int) -> float:
    """Simulated time per token when the drafter drafts ahead, over that of lock-step.

    The lock-step time is the formula's, with the tokens per round that this run had: the luck of
    its text is in both.
    """
    profile = _profile(agreement, upstream, hop)
    knobs = EdgeKnobs(
        window=2 * num_draft_tokens + 1,
        burst=num_draft_tokens,
        patience=num_draft_tokens,
        patience_ms=1e6,
    )
    plan = Plan(chain=("drafter", "target"), edges=(knobs,))
    results = World(profile.model_copy(update={"plan": plan})).run()
    lock_step_ms = _VERIFY_MS * (num_draft_tokens * upstream + 1 + hop)
    return results.token_ms_mean * results.mean_acceptance_length / lock_step_ms


def _profile(agreement: float, upstream: float, hop: float) -> Profile:
    return Profile.model_validate(
        {
            "name": "table",
            "members": [
                {
                    "name": "drafter",
                    "step": {"base_ms": _VERIFY_MS * upstream},
                },
                {
                    "name": "target",
                    "role": "target",
                    "step": {"base_ms": _VERIFY_MS},
                },
            ],
            "agreements": [{"draft": "drafter", "verifier": "target", "agreement": agreement}],
            "hop_us": 1e3 * _VERIFY_MS * hop / 2,
            "workload": {
                "num_requests": 1,
                "concurrency": 1,
                "prompt_tokens": 1,
                "output_tokens": NUM_TOKENS,
            },
        }
    )


def make_table() -> dict[str, Any]:
    """The content of the file."""
    axes = {
        "agreement": AGREEMENT,
        "upstream": UPSTREAM,
        "hop": HOP,
        "draft_tokens": DRAFT_TOKENS,
    }
    shape = [len(axis) for axis in axes.values()]
    points = product(AGREEMENT, UPSTREAM, HOP, DRAFT_TOKENS)
    bar = tqdm(points, desc="points", total=prod(shape))
    flat = [round(ratio(*point), _DIGITS) for point in bar]
    return {"axes": axes, "ratios": np.reshape(flat, shape).tolist()}


def main() -> None:
    """Simulates and writes."""
    content = json.dumps(make_table(), separators=(",", ":"))
    TABLE_FILE.write_text(content + "\n", encoding="utf-8")
    print(f"{TABLE_FILE}: {len(content) / 1024:.1f} KiB")


if __name__ == "__main__":
    main()
