"""The planner's choice against the best of all chains, on random pools, both simulated.

    python -m benchmarks.regret_simulated --pools 20 --json

The regret of a pool is by what share the planner's plan is slower per token than the best plan
of an exhaustive search, when the planner's tables hold the true times and agreements.
"""

import argparse
import statistics

from tqdm import tqdm

from benchmarks.report import add_json_argument, print_report
from specrouter_dist.config import Plan
from specrouter_dist.simulation.search import Regret, find_regret, random_profile


def shown(plan: Plan) -> str:
    """Chain, and per edge the length, the burst and the window."""
    text = plan.chain[0]
    for name, edge in zip(plan.chain[1:], plan.edges, strict=True):
        text += f" -{edge.patience}/{edge.burst}/{edge.window}-> {name}"
    return text


def row(seed: int, found: Regret) -> dict[str, object]:
    """One pool, for the report."""
    return {
        "seed": seed,
        "regret": round(found.regret, 4),
        "chosen": shown(found.chosen),
        "best": shown(found.best),
        "chosen_us": round(found.chosen_us, 1),
        "predicted_us": round(found.predicted_us, 1),
        "best_us": round(found.best_us, 1),
        "alone_us": round(found.alone_us, 1),
    }


def main() -> None:
    """Parses the arguments, searches, prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pools", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the first pool")
    add_json_argument(parser)
    arguments = parser.parse_args()
    seeds = range(arguments.seed, arguments.seed + arguments.pools)
    rows = [row(seed, find_regret(random_profile(seed))) for seed in tqdm(seeds, unit="pool")]
    regrets = [float(str(r["regret"])) for r in rows]
    summary = {
        "median": statistics.median(regrets),
        "mean": round(statistics.fmean(regrets), 4),
        "p90": sorted(regrets)[int(0.9 * (len(regrets) - 1))],
        "max": max(regrets),
    }
    if arguments.json:
        print_report("regret_simulated", arguments, {"regret": summary, "pools": rows})
        return
    for line in sorted(rows, key=lambda r: -float(str(r["regret"]))):
        print(f"{line['regret']:7.2%}  {line['chosen']}  |  best {line['best']}  |  {line}")
    print(f"regret over {len(rows)} pools: {summary}")


if __name__ == "__main__":
    main()
