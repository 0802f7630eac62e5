"""The price of the service, layer by layer: the same prompts, in turn, through each of them.

    python -m benchmarks.service_price --per-task 4 --passes 5

One request at a time, greedy, without a prefix cache. A pass asks every prompt of every layer, in
rotating order; one pass is run before and not counted. What a layer adds is the median over pairs
with the layer below it.
"""

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tqdm import tqdm

from benchmarks.layers import LAYERS, Ask, Asked, Timed, open_layers
from benchmarks.prompts import DATA, read_prompts
from benchmarks.report import add_json_argument, print_report
from benchmarks.statistics import Interval, median_interval
from specrouter_dist.cli.session import open_pool

_HEAD = ("layer", "TTFT ms", "more", "tokens/s", "x the layer below")


def run_passes(
    layers: Mapping[str, Ask], asked: Sequence[Asked], num_passes: int
) -> dict[str, list[Timed]]:
    """By layer, the answers in one order for all."""
    answers: dict[str, list[Timed]] = {name: [] for name in LAYERS}
    turns = [(number, one) for number in range(1 + num_passes) for one in asked]
    for turn, (number, one) in enumerate(tqdm(turns, desc=",".join(asked[0].chain), leave=False)):
        first = turn % len(LAYERS)
        for name in (*LAYERS[first:], *LAYERS[:first]):
            timed = layers[name](one)
            if number:
                answers[name].append(timed)
    return answers


def summarise(answers: Mapping[str, Sequence[Timed]]) -> dict[str, dict[str, Any]]:
    """By layer: times, what it adds to the layer below, and how many texts differ from it."""
    rows: dict[str, dict[str, Any]] = {}
    below: Sequence[Timed] | None = None
    for name in LAYERS:
        own = answers[name]
        rows[name] = {
            "time_to_first_token_ms": median_interval([a.time_to_first_token_ms for a in own]),
            "tokens_per_second": median_interval([a.tokens_per_second for a in own]),
        }
        if below is not None:
            pairs = list(zip(own, below, strict=True))
            rows[name] |= {
                "added_first_token_ms": median_interval(
                    [a.time_to_first_token_ms - b.time_to_first_token_ms for a, b in pairs]
                ),
                "times_below": median_interval(
                    [a.tokens_per_second / b.tokens_per_second for a, b in pairs]
                ),
                "num_differing": sum(a.text != b.text for a, b in pairs),
            }
        below = own
    return rows


def to_markdown(chain: Sequence[str], rows: Mapping[str, Mapping[str, Any]]) -> str:
    """One chain's table."""
    lines = [f"{' → '.join(chain)}:", "", f"| {' | '.join(_HEAD)} |", "| --- " * len(_HEAD) + "|"]
    for name, row in rows.items():
        cells = (
            row["time_to_first_token_ms"],
            row.get("added_first_token_ms", ""),
            row["tokens_per_second"],
            row.get("times_below", ""),
        )
        lines.append(f"| {name} | {' | '.join(map(str, cells))} |")
    return "\n".join([*lines, ""])


def to_plain(rows: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The rows for JSON."""
    return {
        name: {
            key: asdict(value) if isinstance(value, Interval) else value
            for key, value in row.items()
        }
        for name, row in rows.items()
    }


def main() -> None:
    """Parses the arguments, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pool", default="tiny")
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--split", choices=["dev", "eval"], default="dev")
    parser.add_argument("--per-task", type=int, default=4)
    parser.add_argument("--passes", type=int, default=5)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument(
        "--chain", action="append", help="members by comma; default: target, and small,target"
    )
    parser.add_argument("--draft-tokens", type=int, default=4, help="blocks of chains")
    add_json_argument(parser)
    arguments = parser.parse_args()
    pool, _ = open_pool(arguments.pool, dtype=None)
    prompts = read_prompts(arguments.data, arguments.split, arguments.per_task)
    chains = [tuple(chain.split(",")) for chain in arguments.chain or ("target", "small,target")]
    results = {}
    with tempfile.TemporaryDirectory() as directory, open_layers(pool, Path(directory)) as layers:
        for chain in chains:
            length = arguments.draft_tokens if len(chain) > 1 else 0
            asked = [Asked(prompt.text, chain, length, arguments.max_tokens) for prompt in prompts]
            results[chain] = summarise(run_passes(layers, asked, arguments.passes))
    if not arguments.json:
        print("\n".join(to_markdown(chain, rows) for chain, rows in results.items()))
    plain = {",".join(chain): to_plain(rows) for chain, rows in results.items()}
    print_report("service_price", arguments, {"results": plain})


if __name__ == "__main__":
    main()
