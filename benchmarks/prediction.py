"""What the router predicted against what came of it.

    python -m benchmarks.prediction --per-task 8 --plot prediction.png --json

Dev prompts, one at a time, through the router's choice and through a chain of every pair, at both
temperatures. The router notes, for twice a second and each chain, the time per token that it
predicted and that was measured since, and for each pair the tokens per round, by all that was known
and by similarity alone. The error of a pair or chain is the median of |predicted - measured| /
measured, each note counted by its rounds. What similarity expects of each pair at the end stands
beside its share of accepted proposals.
"""

import argparse
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from tqdm import tqdm

from benchmarks.arms import comparison_arguments, run_arm
from benchmarks.pools import without_prefix_cache
from benchmarks.prompts import read_prompts
from benchmarks.report import add_json_argument, print_report
from specrouter_dist.cli.backends import open_backend
from specrouter_dist.cli.options import BackendName
from specrouter_dist.cli.session import open_pool
from specrouter_dist.config import SamplingParams
from specrouter_dist.serving.backend import PoolBackend
from specrouter_dist.serving.calibration import pair_chains
from specrouter_dist.text.tokenizer import Tokenizer

_TEMPERATURES = (0.0, 0.8)
_ASKED_WITHIN_S = 1.0
"""The router asks its workers twice a second."""
_LABELS = {
    "us_per_token": "µs per token",
    "tokens_per_round": "tokens per round",
    "tokens_per_round_by_similarity": "tokens per round, by similarity",
}

Notes = dict[str, list[dict[str, Any]]]


def collect(backend: PoolBackend, arguments: argparse.Namespace) -> Notes:
    """All notes of the run, by kind; those of the calibration are not among them."""
    pool, report = open_pool(arguments.pool, dtype=None)
    tokenizer = Tokenizer.load(pool.directories[pool.config.target.name])
    texts = read_prompts(arguments.data, arguments.split, arguments.per_task)
    prompts = [tokenizer.encode(prompt.text) for prompt in texts]
    chains = [None, *pair_chains(pool, report)]
    notes: Notes = {kind: [] for kind in _LABELS}
    for temperature in _TEMPERATURES:
        sampling = SamplingParams(temperature=temperature, max_tokens=arguments.max_tokens)
        for chain in tqdm(chains, desc=f"T={temperature}", leave=False):
            began_s = time.monotonic()
            run_arm(backend, prompts, chain, sampling, 1)
            time.sleep(_ASKED_WITHIN_S)
            for kind, newer in _newer(backend, time.monotonic() - began_s).items():
                notes[kind] += newer
            # What came too late for these is not to be the next ones'.
            time.sleep(_ASKED_WITHIN_S)
    return notes


def _newer(backend: PoolBackend, age_s: float) -> Notes:
    outcomes: Notes = backend.running.explain()["outcomes"]
    return {kind: [note for note in outcomes[kind] if note["age_s"] <= age_s] for kind in _LABELS}


def median_error(notes: list[dict[str, Any]]) -> float:
    """Each note counted by the rounds behind it."""
    errors: list[tuple[float, float]] = sorted(
        (abs(note["predicted"] - note["measured"]) / note["measured"], note["weight"])
        for note in notes
    )
    half, below = sum(weight for _, weight in errors) / 2, 0.0
    for error, weight in errors:
        below += weight
        if below >= half:
            return error
    raise ValueError("no notes")


def summarise(notes: Notes) -> dict[str, dict[str, float]]:
    """Errors over all and of every chain or pair; of a kind without notes there are none."""
    summary = {}
    for kind, entries in ((kind, entries) for kind, entries in notes.items() if entries):
        by_name: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for note in entries:
            by_name[f"{note['of']}, {note['traffic']['regime']}"].append(note)
        errors = {name: median_error(group) for name, group in sorted(by_name.items())}
        summary[kind] = {"all": median_error(entries), **errors}
    return summary


def agreements(backend: PoolBackend) -> list[dict[str, Any]]:
    """Pairs that were compared and drafted or replayed, with both."""
    rows = []
    for pair in backend.running.explain()["pairs"]:
        backing, alike = pair["chained"] or pair["replayed"], pair["similar"]
        # Of all sampled requests together nobody knows how they are sampled.
        if backing is None or alike is None or pair["traffic"]["regime"] == "sampled":
            continue
        name = f"{pair['draft']} -> {pair['verifier']}, {pair['traffic']['regime']}"
        rows.append({"of": name, "measured": backing["mean"], "predicted": alike["agreement"]})
    return rows


def draw(notes: Notes, pairs: list[dict[str, Any]], file: Path) -> None:
    """Predicted against measured, a dot per note, as large as what is behind it."""
    figure = Figure(figsize=(12, 12), layout="constrained")
    *panels, last = figure.subplots(2, 2).flat
    for axes, (kind, label) in zip(panels, _LABELS.items(), strict=True):
        _draw_kind(axes, notes[kind], label)
    _draw_kind(last, [{**pair, "weight": 400} for pair in pairs], "agreement, by similarity")
    figure.savefig(file, dpi=120)


def _draw_kind(axes: Axes, notes: list[dict[str, Any]], label: str) -> None:
    if not notes:
        return
    for name in sorted({note["of"] for note in notes}):
        group = [note for note in notes if note["of"] == name]
        axes.scatter(
            [note["measured"] for note in group],
            [note["predicted"] for note in group],
            s=[4 + note["weight"] ** 0.5 for note in group],
            label=name,
            alpha=0.6,
        )
    highest = max(max(note["predicted"], note["measured"]) for note in notes)
    axes.plot([0, highest], [0, highest], color="black", linewidth=0.8)
    axes.set(xlabel=f"measured {label}", ylabel=f"predicted {label}")
    axes.legend(fontsize="x-small")


def main() -> None:
    """Parses the arguments, measures, draws, prints."""
    parser = comparison_arguments(__doc__)
    parser.add_argument("--per-task", type=int, default=4)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--plot", type=Path, help="a file to draw into")
    add_json_argument(parser)
    arguments = parser.parse_args()
    pool, report = open_pool(arguments.pool, dtype=None)
    with open_backend(
        without_prefix_cache(pool), report, BackendName(arguments.backend)
    ) as backend:
        notes, pairs = collect(backend, arguments), agreements(backend)
    if arguments.plot is not None:
        draw(notes, pairs, arguments.plot)
    print_report("prediction", arguments, {"median_error": summarise(notes), "agreement": pairs})


if __name__ == "__main__":
    main()
