"""What it costs to tell what a prompt is about, and how well it is told.

    python -m benchmarks.classify tasks.safetensors --log train.jsonl.gz

Times are those of one call on prompts of the given lengths, cut from the dev prompts.

Dev prompts have labels that the partition never saw: purity is the share of prompts whose label is
the most frequent one of their task, NMI the normalised mutual information of the two. The labels of
eval prompts are suites, most of them unlike the traffic: how many are said to be of no task.

With ``--log``, the prompts that ``tasks fit`` found the partition in, the clusters are found again:
how often the classifier names the cluster whose centre is nearest, which is what it was taught.
"""

import argparse
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import normalized_mutual_info_score

from benchmarks.prompts import DATA, read_prompts
from benchmarks.report import add_json_argument, print_report
from benchmarks.task_clusters import Clusters, find_clusters
from specrouter_dist.align.prompts import Prompt
from specrouter_dist.cli.prompt_log import read_prompt_log
from specrouter_dist.pools.checks import read_vocabulary
from specrouter_dist.pools.loading import load_pool, resolve_directories
from specrouter_dist.tasks.classifier import TaskClassifier
from specrouter_dist.tasks.model import TaskModel, read_model, vocabulary_hash
from specrouter_dist.text.tokenizer import Tokenizer

_ALL = 10_000
"""More than any task has."""
_SPLITS = ("dev", "eval")
_CLOCKS = ("wall_us", "cpu_us")
_PERCENTILES = ("p50", "p99")


def latency(
    classifier: TaskClassifier, stream: Sequence[int], num_tokens: int, repeats: int
) -> dict[str, object]:
    """Microseconds of a call, each on another piece of ``stream``.

    ``cpu``: of its thread, which is what it takes on a core that nobody else wants.
    """
    rng = np.random.default_rng(num_tokens)
    starts = rng.integers(0, len(stream) - num_tokens, repeats).tolist()
    wall_us, cpu_us = [], []
    for start in starts:
        piece = stream[start : start + num_tokens]
        started, cpu_started = time.perf_counter(), time.thread_time()
        classifier.task(piece)
        cpu_us.append((time.thread_time() - cpu_started) * 1e6)
        wall_us.append((time.perf_counter() - started) * 1e6)
    return {"num_tokens": num_tokens, "wall_us": _spread(wall_us), "cpu_us": _spread(cpu_us)}


def _spread(times_us: Sequence[float]) -> dict[str, float]:
    p50, p99 = np.percentile(times_us, (50, 99)).tolist()
    return {"p50": p50, "p99": p99, "max": max(times_us)}


def judged(labels: Sequence[str], tasks: Sequence[str]) -> dict[str, Any]:
    """Against labels; prompts of no task count as a task of their own."""
    pairs = Counter(zip(tasks, labels, strict=True))
    largest: Counter[str] = Counter()
    for (task, _), count in pairs.items():
        largest[task] = max(largest[task], count)
    return {
        "num_prompts": len(labels),
        "num_tasks": len(set(tasks) - {""}),
        "purity": largest.total() / len(labels),
        "nmi": float(normalized_mutual_info_score(labels, tasks)),
        "none": tasks.count("") / len(tasks),
        "confusion": _confusion(labels, tasks),
    }


def taught(clusters: Sequence[str], tasks: Sequence[str]) -> dict[str, Any]:
    """Against clusters. A prompt of no task is not given to its cluster; it has one, as the nearest
    centre has no bound."""
    num_equal = sum(map(str.__eq__, clusters, tasks))
    num_told = len(tasks) - tasks.count("")
    return {
        "accuracy": num_equal / len(tasks),
        "accuracy_of_told": num_equal / num_told if num_told else None,
        "confusion": _confusion(clusters, tasks),
    }


def _confusion(rows: Sequence[str], tasks: Sequence[str]) -> dict[str, dict[str, int]]:
    """How many prompts of each row the classifier gives to each task; of none last."""
    pairs = Counter(zip(rows, tasks, strict=True))
    told = sorted(set(tasks), key=lambda task: (not task, task))
    return {row: {task or "none": pairs[row, task] for task in told} for row in sorted(set(rows))}


def judge_split(
    classifier: TaskClassifier,
    labels: Sequence[str],
    prompts: Sequence[Prompt],
    clusters: Clusters | None,
) -> dict[str, Any]:
    """Against labels, and against clusters where they are known."""
    tasks = [classifier.task(prompt.tokens) for prompt in prompts]
    found = judged(labels, tasks)
    return found if clusters is None else {**found, "clusters": taught(clusters.of(prompts), tasks)}


def tables(results: Mapping[str, Any]) -> Iterator[str]:
    """The lines that people read."""
    yield f"{results['num_tasks']} tasks: {', '.join(results['tasks'])}"
    yield ""
    yield from _table(
        ["tokens", "wall p50, us", "p99", "CPU p50, us", "p99"],
        [
            [row["num_tokens"], *(row[clock][p] for clock in _CLOCKS for p in _PERCENTILES)]
            for row in results["latency"]
        ],
    )
    for split, found in results["judged"].items():
        yield ""
        yield (
            f"{split}: {found['num_prompts']} prompts, purity {found['purity']:.3f}, NMI "
            f"{found['nmi']:.3f}, of none {found['none']:.1%}"
        )
        yield from _matrix("label", found["confusion"])
        if own := found.get("clusters"):
            yield ""
            yield (
                f"{split}: given to their cluster {own['accuracy']:.1%}, of those that have a task "
                f"{own['accuracy_of_told'] or 0.0:.1%}"
            )
            yield from _matrix("cluster", own["confusion"])


def _matrix(corner: str, confusion: Mapping[str, Mapping[str, int]]) -> Iterator[str]:
    """Of rows against what is told."""
    told = list(next(iter(confusion.values())))
    rows = [[row, *counts.values()] for row, counts in confusion.items()]
    yield from _table([f"{corner} | told", *told], rows)


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> Iterator[str]:
    cells = [head, *([f"{c:.0f}" if isinstance(c, float) else str(c) for c in r] for r in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for first, *others in cells:
        padded = (cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True))
        yield "  ".join((first.ljust(widths[0]), *padded))


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("partition", type=Path)
    parser.add_argument("--pool", default="tiny")
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--log", type=Path, help="what 'tasks fit' was given, to judge by clusters")
    parser.add_argument("--seed", type=int, default=0, help="of 'tasks fit'")
    parser.add_argument("--embedding", type=Path, help="of 'tasks fit'")
    parser.add_argument("--tokens", default="16,256,2000", help="lengths of prompts, by comma")
    parser.add_argument("--repeats", type=int, default=2000)
    add_json_argument(parser)
    return parser.parse_args()


def _clusters(
    model: TaskModel, tokenizer: Tokenizer, arguments: argparse.Namespace
) -> Clusters | None:
    if arguments.log is None:
        return None
    # So many distinct prompts as were drawn then, which are the same ones with the same seed.
    most, seed = model.header.num_prompts, arguments.seed
    log = read_prompt_log(arguments.log, tokenizer, most=most, seed=seed)
    return find_clusters(model, log.prompts, seed=seed, embedding=arguments.embedding)


def main() -> None:
    """Measures, prints."""
    arguments = _parse_arguments()
    pool = resolve_directories(load_pool(arguments.pool))
    directory = pool.directories[pool.config.target.name]
    model = read_model(arguments.partition, vocabulary_hash(read_vocabulary(directory)))
    classifier, tokenizer = TaskClassifier(model), Tokenizer.load(directory)
    clusters = _clusters(model, tokenizer, arguments)
    judged_splits, prompts = {}, {}
    for split in _SPLITS:
        rows = read_prompts(arguments.data, split, _ALL)
        prompts[split] = [Prompt(row.text, tokenizer.encode(row.text)) for row in rows]
        labels = [row.task for row in rows]
        judged_splits[split] = judge_split(classifier, labels, prompts[split], clusters)
    stream = [token for prompt in prompts["dev"] for token in prompt.tokens]
    lengths = [int(length) for length in arguments.tokens.split(",")]
    results = {
        "num_tasks": len(classifier.names),
        "tasks": list(classifier.names),
        "latency": [latency(classifier, stream, length, arguments.repeats) for length in lengths],
        "judged": judged_splits,
    }
    if arguments.json:
        print_report("classify", arguments, results)
    else:
        print(*tables(results), sep="\n")


if __name__ == "__main__":
    main()
