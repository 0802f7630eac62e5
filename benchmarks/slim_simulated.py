"""A slim level at the shapes of real models, simulated: where it pays.

    python -m benchmarks.slim_simulated --json

A drafter of 68M on a GPU of its own, a target of 7B, and a slim member that shares the target's
device and takes the share of its step that it keeps. Times and the drafter's agreement are
assumptions, those of ``specrouter simulate llama2``; how often the slim member agrees with the
target is varied. The stages and the planner are the real ones. For each setting
the planner's best chain without the slim member and its best one through it run for as many tokens.
"""

import argparse
from collections.abc import Iterator, Sequence
from itertools import product

from tqdm import tqdm

from benchmarks.report import add_json_argument, print_report
from specrouter_dist.config import Plan
from specrouter_dist.routing.costs import Regime
from specrouter_dist.routing.planner import Candidate, to_plan
from specrouter_dist.routing.traffic import GREEDY
from specrouter_dist.simulation.oracle import Oracle
from specrouter_dist.simulation.profile import Profile
from specrouter_dist.simulation.search import taught_planner
from specrouter_dist.simulation.steady import token_us

_SKIPS = (0.45, 0.6, 0.75)
_AGREEMENTS = (0.85, 0.9, 0.93, 0.95, 0.97, 0.98)
_DRAFTER_AGREEMENT = 0.55
_TARGET_MS, _TARGET_ROW_MS = 16.0, 0.06
_WITHOUT = (("target",), ("drafter", "target"))
_THROUGH = (("slim", "target"), ("drafter", "slim", "target"))


def described(skip: float, agreement: float) -> Profile:
    """The pool with a slim member that skips this share of the target."""
    kept = 1.0 - skip
    return Profile.model_validate(
        {
            "name": "slim-7b",
            "members": [
                {
                    "name": "drafter",
                    "step": {"base_ms": 2.0, "per_row_ms": 0.002},
                    "draft_token_ms": 1.0,
                },
                {
                    "name": "slim",
                    "device": "target",
                    "step": {"base_ms": kept * _TARGET_MS, "per_row_ms": kept * _TARGET_ROW_MS},
                },
                {
                    "name": "target",
                    "role": "target",
                    "step": {"base_ms": _TARGET_MS, "per_row_ms": _TARGET_ROW_MS},
                },
            ],
            "agreements": [
                {"draft": "drafter", "verifier": "target", "agreement": _DRAFTER_AGREEMENT},
                {"draft": "slim", "verifier": "target", "agreement": agreement},
            ],
            "workload": {"num_requests": 1, "concurrency": 1},
        }
    )


def compare(profile: Profile, num_tokens: int) -> dict[str, object]:
    """Times per token, in milliseconds."""
    oracle = Oracle(profile)
    planner = taught_planner(profile, oracle)

    def run(plan: Plan) -> float:
        return token_us(profile, oracle, plan, num_tokens) / 1e3

    def best(chains: Sequence[tuple[str, ...]]) -> Candidate:
        ways = (planner.evaluate(chain, Regime(GREEDY)) for chain in chains)
        return min((way for way in ways if way), key=lambda way: way.predicted_us)

    without, through = best(_WITHOUT), best(_THROUGH)
    without_ms, through_ms = run(to_plan(without, 0)), run(to_plan(through, 0))
    return {
        "alone_ms": run(Plan(chain=("target",))),
        "without": {"chain": describe(without), "ms": without_ms},
        "through": {"chain": describe(through), "ms": through_ms},
        "gain": without_ms / through_ms,
        "predicted_gain": without.predicted_us / through.predicted_us,
        "planner_takes_it": "slim" in planner.candidates(Regime(GREEDY))[0].chain,
    }


def describe(way: Candidate) -> str:
    """Chain and lengths of blocks."""
    return f"{' -> '.join(way.chain)} {list(way.num_draft_tokens)}"


def rows(num_tokens: int) -> Iterator[dict[str, object]]:
    """One for every skipped share and agreement."""
    grid = list(product(_SKIPS, _AGREEMENTS))
    for skip, agreement in tqdm(grid, desc="simulated", leave=False):
        found = compare(described(skip, agreement), num_tokens)
        yield {"skip": skip, "agreement": agreement, **found}


def main() -> None:
    """Parses the arguments, simulates, prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=8000)
    add_json_argument(parser)
    arguments = parser.parse_args()
    print_report("slim_simulated", arguments, {"rows": list(rows(arguments.tokens))})


if __name__ == "__main__":
    main()
