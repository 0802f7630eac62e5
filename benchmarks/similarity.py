"""What similarity makes of greedy texts, against agreement at a temperature never served before.

    python -m benchmarks.similarity --per-task 10 --plot similarity.svg --json

The target writes dev prompts at temperature 0, all members read the texts, and the router's tables
say what is to be expected of each pair at temperature 0.8. Then the target answers the same prompts
at 0.8, and rounds of every pair are replayed on that: what was to be expected. No links, no budget
of time: a matter of the models alone.
"""

import argparse
from array import array
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from matplotlib.figure import Figure
from tqdm import tqdm

from benchmarks.prompts import DATA, read_prompts
from benchmarks.report import add_json_argument, print_report
from specrouter_dist.cli.session import open_pool
from specrouter_dist.config import SamplingParams
from specrouter_dist.engine.factory import load_engine
from specrouter_dist.engine.interface import Engine, Extension, Picks
from specrouter_dist.pools.loading import model_members
from specrouter_dist.routing.agreement import AgreementTable
from specrouter_dist.routing.comparisons import Comparisons
from specrouter_dist.routing.evidence import Evidence, Grounds, Source
from specrouter_dist.routing.observations import LawReading, Reading
from specrouter_dist.routing.replay import Replays
from specrouter_dist.routing.similarity import sampled_positions
from specrouter_dist.routing.traffic import Traffic
from specrouter_dist.speculation.messages import TOKEN_TYPECODE, TokenArray
from specrouter_dist.text.tokenizer import Tokenizer

_TEMPERATURE = 0.8

Engines = Mapping[str, Engine]
Text = tuple[TokenArray, TokenArray, SamplingParams]
"""Prompt, output, and how it was written."""


def write(engine: Engine, prompt: TokenArray, sampling: SamplingParams) -> Text:
    """The engine's own text, as long as may be."""
    end = len(prompt) + sampling.max_tokens
    slot = engine.open(sampling, len(prompt), end)
    text, fed = prompt[:], prompt
    while len(text) < end:
        (picks,) = engine.extend([Extension(slot, len(text) - len(fed), fed, 1)])
        fed = picks.tokens
        text += fed
    engine.close(slot)
    return prompt, text[len(prompt) :], sampling


def read(engine: Engine, text: Text) -> Picks:
    """What it would have drawn at every position of the output, and its laws at some."""
    prompt, output, sampling = text
    slot = engine.open(sampling, len(prompt), len(prompt) + len(output))
    sampled = tuple(sampled_positions(len(output)))
    tokens = prompt + output[:-1]
    (picks,) = engine.extend([Extension(slot, 0, tokens, len(output), sparse_rows=sampled)])
    engine.close(slot)
    return picks


def readings(engines: Engines, texts: Sequence[Text]) -> Iterator[tuple[LawReading, Reading]]:
    """Of all members, of all texts."""
    for request, text in enumerate(tqdm(texts, desc="reading", leave=False)):
        traffic = Traffic.of(text[2])
        for name, engine in engines.items():
            picks = read(engine, text)
            assert picks.sparse_rows is not None
            said = Reading(request, name, traffic, picks.tokens, text[0])
            yield LawReading(request, name, traffic, picks.sparse_rows), said


def measure(
    engines: Engines, prompts: Sequence[TokenArray], max_tokens: int
) -> list[dict[str, Any]]:
    """A row for every ordered pair."""
    names = list(engines)
    target = engines[names[-1]]
    samplings = [SamplingParams(temperature=t, max_tokens=max_tokens) for t in (0.0, _TEMPERATURE)]
    greedy, sampled = (
        [
            write(target, prompt, sampling.model_copy(update={"seed": seed}))
            for seed, prompt in enumerate(tqdm(prompts, desc="writing", leave=False))
        ]
        for sampling in samplings
    )
    table, comparisons = AgreementTable(), Comparisons(names)
    for laws, _ in readings(engines, greedy):
        for key, comparison in comparisons.add(laws):
            table.compare(key, comparison, 0.0)
    kind = Traffic.of(samplings[1])
    keys = sorted(key for key in {key._replace(traffic=kind) for key in table.newest(1 << 20)})
    before = {key: table.grounds(key, 0.0) for key in keys}
    replays, measured = Replays(names[-1], {}), AgreementTable()
    for _, reading in readings(engines, sampled):
        for key, survival in replays.add(reading):
            measured.record(key, survival, Source.REPLAYED)
    return [_row(before[key], measured.evidence(key, Source.REPLAYED)) for key in keys]


def _row(expected: Grounds, measured: Evidence | None) -> dict[str, Any]:
    alike = expected.similar
    assert alike is not None and measured is not None and measured.mean is not None
    return {
        "pair": f"{expected.draft} -> {expected.verifier}",
        "score": alike.score,
        "bounds": [alike.least, alike.most],
        "num_positions": alike.num_positions,
        "expected": alike.agreement,
        "measured": measured.mean,
        "num_blocks": measured.num_blocks,
    }


def draw(rows: Sequence[Mapping[str, Any]], file: Path) -> None:
    """Expected against measured agreement, with the bounds."""
    figure = Figure(figsize=(6, 6), layout="constrained")
    axes = figure.subplots()
    for row in rows:
        least, most = row["bounds"]
        around = [[row["expected"] - least], [most - row["expected"]]]
        axes.errorbar([row["measured"]], [row["expected"]], around, fmt="o", label=row["pair"])
    axes.plot([0, 1], [0, 1], color="black", linewidth=0.8)
    axes.set(xlabel=f"measured agreement at {_TEMPERATURE}", ylabel="expected from greedy texts")
    axes.legend(fontsize="x-small")
    figure.savefig(file, dpi=120)


def main() -> None:
    """Parses the arguments, measures, draws, prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pool", default="tiny")
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--split", choices=["dev", "eval"], default="dev")
    parser.add_argument("--per-task", type=int, default=10)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--plot", type=Path, help="a file to draw into")
    add_json_argument(parser)
    arguments = parser.parse_args()
    pool, report = open_pool(arguments.pool, dtype=None)
    directories, exact = pool.directories, pool.config.exact
    engines = {
        member.name: load_engine(
            member, directories[member.name], num_ids=report.num_ids, exact=exact
        )
        for member in model_members(pool)
    }
    tokenizer = Tokenizer.load(directories[pool.config.target.name])
    texts = read_prompts(arguments.data, arguments.split, arguments.per_task)
    prompts = [array(TOKEN_TYPECODE, tokenizer.encode(prompt.text)) for prompt in texts]
    rows = measure(engines, prompts, arguments.max_tokens)
    errors = [abs(row["expected"] - row["measured"]) for row in rows]
    if arguments.plot is not None:
        draw(rows, arguments.plot)
    print_report("similarity", arguments, {"mean_error": mean(errors), "pairs": rows})


if __name__ == "__main__":
    main()
