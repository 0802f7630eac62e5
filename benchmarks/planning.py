"""What a decision costs, for pools of many members.

    python -m benchmarks.planning --json

Members whose speeds and agreements are drawn at random, of which a few thousand pairs have been
observed. A decision is the ranking of all chains for one kind of request at one load: the dynamic
programme over the last stage and the full cost of the chains that it proposes.
"""

import argparse
import random
import statistics
import time
from itertools import combinations

from benchmarks.report import add_json_argument, print_report
from specrouter_dist.routing.observations import (
    ForwardKey,
    ForwardTimes,
    Observations,
    PairKey,
    Survival,
)
from specrouter_dist.routing.router import Router
from specrouter_dist.routing.traffic import GREEDY

_KNOWN_PAIRS = 4000
_BLOCKS = 20


def random_router(num_members: int, seed: int) -> Router:
    """A pool of which much is known."""
    rng = random.Random(seed)
    names = [f"m{i}" for i in range(num_members)]
    router = Router(names, {}, {name: name for name in names}, hop_us=100.0)
    profile = Observations(is_profile=True)
    for k, name in enumerate(names):
        step_us = 200.0 * (1 + k) * rng.uniform(0.7, 1.4)
        for rows in (1, 2, 4, 8, 17):
            times = ForwardTimes(1, step_us * (1 + 0.02 * rows))
            profile.forwards[ForwardKey(name, rows, 1)] = times
        for drafts in (1, 3, 7, 15):
            times = ForwardTimes(1, step_us * (drafts + 1))
            profile.forwards[ForwardKey(name, 1, 1, drafts)] = times
    router.observe(profile, 0.0)
    pairs = list(combinations(names, 2))
    told = Observations()
    for draft, verifier in rng.sample(pairs, min(len(pairs), _KNOWN_PAIRS)):
        survival = Survival()
        for _ in range(_BLOCKS):
            survival.add(8, rng.randrange(9))
        told.pairs[PairKey(draft, verifier, GREEDY)] = survival
    router.observe(told, 0.0)
    return router


def measure(num_members: int, repeats: int) -> dict[str, object]:
    """Milliseconds of a decision."""
    router = random_router(num_members, seed=num_members)
    best = router.candidates(GREEDY)[0]
    times_ms = []
    for _ in range(repeats):
        started = time.perf_counter()
        router.candidates(GREEDY)
        times_ms.append((time.perf_counter() - started) * 1e3)
    return {
        "num_members": num_members,
        "median_ms": statistics.median(times_ms),
        "worst_ms": max(times_ms),
        "best_chain": " -> ".join(best.chain),
    }


def main() -> None:
    """Parses the arguments, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--members", default="8,64,512", help="by comma")
    parser.add_argument("--repeats", type=int, default=21)
    add_json_argument(parser)
    arguments = parser.parse_args()
    rows = [measure(int(count), arguments.repeats) for count in arguments.members.split(",")]
    print_report("planning", arguments, {"rows": rows})


if __name__ == "__main__":
    main()
