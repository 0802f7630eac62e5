"""What it costs to tell what a prompt is about, and how well it is told.

    python -m benchmarks.classify tasks.safetensors --json

Times are those of one call on prompts of the given lengths, cut from the split's own. Dev prompts
have labels that the partition never saw: purity is the share of prompts whose label is the most
frequent one of their task, NMI the normalised mutual information of the two. With ``--split eval``
the labels are suites, most of them unlike the traffic: how many are said to be of no task.
"""

import argparse
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from sklearn.metrics import normalized_mutual_info_score

from benchmarks.prompts import DATA, read_prompts
from benchmarks.report import add_json_argument, print_report
from specrouter_dist.pools.checks import read_vocabulary
from specrouter_dist.pools.loading import load_pool, resolve_directories
from specrouter_dist.tasks.classifier import TaskClassifier
from specrouter_dist.tasks.model import read_model, vocabulary_hash
from specrouter_dist.text.tokenizer import Tokenizer

_ALL = 10_000
"""More than any task has."""


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


def judged(labels: Sequence[str], tasks: Sequence[str]) -> dict[str, object]:
    """Against labels; prompts of no task count as a task of their own."""
    pairs = Counter(zip(tasks, labels, strict=True))
    largest: Counter[str] = Counter()
    for (task, _), count in pairs.items():
        largest[task] = max(largest[task], count)
    confusion = {
        label: {task or "none": pairs[task, label] for task in sorted(set(tasks))}
        for label in sorted(set(labels))
    }
    return {
        "num_prompts": len(labels),
        "num_tasks": len(set(tasks) - {""}),
        "purity": largest.total() / len(labels),
        "nmi": float(normalized_mutual_info_score(labels, tasks)),
        "none": tasks.count("") / len(tasks),
        "confusion": confusion,
    }


def main() -> None:
    """Parses the arguments, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("partition", type=Path)
    parser.add_argument("--pool", default="tiny")
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--split", choices=("dev", "eval"), default="dev")
    parser.add_argument("--tokens", default="16,256,2000", help="lengths of prompts, by comma")
    parser.add_argument("--repeats", type=int, default=2000)
    add_json_argument(parser)
    arguments = parser.parse_args()
    pool = resolve_directories(load_pool(arguments.pool))
    directory = pool.directories[pool.config.target.name]
    wanted_hash = vocabulary_hash(read_vocabulary(directory))
    classifier = TaskClassifier(read_model(arguments.partition, wanted_hash))
    tokenizer = Tokenizer.load(directory)
    prompts = read_prompts(arguments.data, arguments.split, _ALL)
    ids = [tokenizer.encode(prompt.text) for prompt in prompts]
    stream = [token for prompt_ids in ids for token in prompt_ids]
    lengths = [int(length) for length in arguments.tokens.split(",")]
    results = {
        "latency": [latency(classifier, stream, length, arguments.repeats) for length in lengths],
        "judged": judged([prompt.task for prompt in prompts], [*map(classifier.task, ids)]),
    }
    print_report("classify", arguments, results)


if __name__ == "__main__":
    main()
