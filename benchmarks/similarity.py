"""What similarity makes of greedy texts, against agreement at a temperature never served before.

    python -m benchmarks.similarity --per-task 10 --plot similarity.svg --json

One process, no calibration. First dev prompts at temperature 0 through the target alone: members
read the texts, the router compares their laws. What it then expects of each pair at temperature 0.8
is kept. Then the prompts at 0.8 through a chain of every pair: what verifies and replays say.
"""

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.arms import run_arm
from benchmarks.environment import environment
from benchmarks.pools import without_prefix_cache
from benchmarks.prompts import DATA, read_prompts
from specrouter_dist.cli.session import open_pool
from specrouter_dist.config import SamplingParams
from specrouter_dist.serving.backend import PoolBackend
from specrouter_dist.serving.calibration import pair_chains
from specrouter_dist.speculation.messages import TokenArray
from specrouter_dist.text.tokenizer import Tokenizer
from specrouter_dist.worker.local import LocalPool

_TEMPERATURE = 0.8
_READ_WITHIN_S = 60.0
"""Texts are read in a hundredth of the time."""
_TEXTS_PER_ARM = 8

Pairs = dict[str, dict[str, Any]]


def pairs_of(backend: PoolBackend, regime: str) -> Pairs:
    """What the router knows of the pairs of models, for one kind of request."""
    return {
        f"{pair['draft']} -> {pair['verifier']}": pair
        for pair in backend.running.explain()["pairs"]
        if pair["traffic"] == {"regime": regime, "task": ""} and pair["similar"] is not None
    }


def serve(
    backend: PoolBackend,
    prompts: Sequence[TokenArray],
    chains: Sequence[tuple[str, ...]],
    sampling: SamplingParams,
) -> None:
    """All prompts through each chain, a few at a time so that the texts are read between."""
    for chain in chains:
        for start in range(0, len(prompts), _TEXTS_PER_ARM):
            run_arm(backend, prompts[start : start + _TEXTS_PER_ARM], chain, sampling, 1)
    time.sleep(_READ_WITHIN_S)


def measure(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for every ordered pair."""
    pool, report = open_pool(arguments.pool, dtype=None)
    tokenizer = Tokenizer.load(pool.directories[pool.config.target.name])
    texts = read_prompts(arguments.data, arguments.split, arguments.per_task)
    prompts = [tokenizer.encode(prompt.text) for prompt in texts]
    cold = without_prefix_cache(pool)
    greedy = SamplingParams(temperature=0.0, max_tokens=arguments.max_tokens)
    sampled = greedy.model_copy(update={"temperature": _TEMPERATURE})
    with PoolBackend(cold, report, LocalPool(cold, report)) as backend:
        serve(backend, prompts, [(pool.config.target.name,)], greedy)
        expected = pairs_of(backend, "sampled")
        serve(backend, prompts, list(pair_chains(pool)), sampled)
        seen = pairs_of(backend, "warm")
        place = backend.running.explain()["place_of_agreement"]
    return [_row(name, expected[name]["similar"], seen[name], place) for name in sorted(expected)]


def _row(name: str, alike: dict[str, Any], seen: dict[str, Any], place: float) -> dict[str, Any]:
    shares = {
        source: None if (backing := seen[source]) is None else backing["mean"]
        for source in ("replayed", "chained")
    }
    # Of an untouched pair; the place is known from all of them.
    afterwards = alike["least"] + place * (alike["most"] - alike["least"])
    return {"pair": name, **alike, "agreement_at_place": afterwards, "place": place, **shares}


def draw(rows: list[dict[str, Any]], file: Path) -> None:
    """Expected against measured agreement, with the bounds."""
    figure = Figure(figsize=(6, 6), layout="constrained")
    _draw_on(figure.subplots(), rows)
    figure.savefig(file, dpi=120)


def _draw_on(axes: Axes, rows: list[dict[str, Any]]) -> None:
    for row in rows:
        measured = row["chained"] if row["chained"] is not None else row["replayed"]
        bounds = [[row["agreement"] - row["least"]], [row["most"] - row["agreement"]]]
        axes.errorbar([measured], [row["agreement"]], bounds, fmt="o", label=row["pair"])
    axes.plot([0, 1], [0, 1], color="black", linewidth=0.8)
    axes.set(xlabel=f"measured agreement at {_TEMPERATURE}", ylabel="expected of greedy texts")
    axes.legend(fontsize="x-small")


def main() -> None:
    """Parses the arguments, measures, draws, prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pool", default="tiny")
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--split", choices=["dev", "eval"], default="dev")
    parser.add_argument("--per-task", type=int, default=10)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--plot", type=Path, help="a file to draw into")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    rows = measure(arguments)
    if arguments.plot is not None:
        draw(rows, arguments.plot)
    errors = [abs(row["agreement"] - row["replayed"]) for row in rows if row["replayed"]]
    head = {"benchmark": "similarity", "arguments": vars(arguments), **environment()}
    indent = None if arguments.json else 2
    result = {**head, "mean_error": mean(errors), "pairs": rows}
    print(json.dumps(result, indent=indent, default=str, ensure_ascii=False))


if __name__ == "__main__":
    main()
