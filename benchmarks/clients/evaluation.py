"""lm_eval against the service, with speculation and without: the same scores and the same texts.

    sh benchmarks/clients/setup.sh .clients
    python -m benchmarks.clients.evaluation --json

lm_eval runs unmodified in its own environment (``local-completions``), over the tasks in tasks/:
one by log-likelihood, one that generates greedily, one that samples. Without speculation the
service runs a pool that holds the target alone.
"""

import argparse
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.clients.service import run_client, serve, write_pool
from benchmarks.report import add_json_argument, print_report
from specrouter_dist.cli.session import open_pool
from specrouter_dist.pools.loading import Pool

_TASKS_DIRECTORY = "benchmarks/clients/tasks"
_TASKS = ("specrouter_choice", "specrouter_greedy", "specrouter_sampled")


def evaluate(pool: Pool, file: Path, arguments: argparse.Namespace, out: Path) -> None:
    """All tasks through a service of the pool in ``file``; leaves lm_eval's results in ``out``."""
    tokenizer = pool.directories[pool.config.target.name]
    with serve(file) as service:
        model = {
            "model": pool.config.name,
            "base_url": f"{service.url}/v1/completions",
            "tokenizer_backend": "huggingface",
            "tokenizer": str(tokenizer),
            "num_concurrent": arguments.concurrency,
        }
        run_client(
            [
                *(str(arguments.clients / "lm_eval/bin/lm_eval"), "run"),
                *("--model", "local-completions"),
                *("--model_args", ",".join(f"{key}={value}" for key, value in model.items())),
                *("--tasks", ",".join(_TASKS), "--include_path", _TASKS_DIRECTORY),
                *("--output_path", str(out), "--log_samples"),
            ],
            offline=True,
        )


def scores_of(out: Path) -> dict[str, Any]:
    """By task, what lm_eval has measured."""
    (file,) = out.glob("**/results_*.json")
    results = json.loads(file.read_text(encoding="utf-8"))["results"]
    return {
        task: {name: value for name, value in results[task].items() if name != "alias"}
        for task in _TASKS
    }


def answers_of(out: Path) -> dict[tuple[str, int], Any]:
    """By task and row, all that the service has answered."""
    return {(task, row["doc_id"]): row["resps"] for task in _TASKS for row in _rows(out, task)}


def _rows(out: Path, task: str) -> Iterator[dict[str, Any]]:
    (file,) = out.glob(f"**/samples_{task}_*.jsonl")
    for line in file.read_text(encoding="utf-8").splitlines():
        yield json.loads(line)


def main() -> None:
    """Parses the arguments, runs both, prints; exit code 1: they differ."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pool", default="tiny")
    parser.add_argument("--clients", type=Path, default=Path(".clients"), help="environments")
    parser.add_argument("--concurrency", type=int, default=4)
    add_json_argument(parser)
    arguments = parser.parse_args()
    arguments.clients = arguments.clients.absolute()
    pool, _ = open_pool(arguments.pool, dtype=None)
    target = pool.config.target.name
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        files = {
            "on": write_pool(pool, directory / "on.yaml"),
            "off": write_pool(pool, directory / "off.yaml", members=[target]),
        }
        for arm, file in files.items():
            evaluate(pool, file, arguments, directory / arm)
        scores = {arm: scores_of(directory / arm) for arm in files}
        answers = {arm: answers_of(directory / arm) for arm in files}
    differing = [row for row, said in answers["on"].items() if answers["off"][row] != said]
    results = {
        "scores": scores,
        "num_answers": len(answers["on"]),
        "differing": differing,
        "same_scores": scores["on"] == scores["off"],
    }
    print_report("clients.evaluation", arguments, results)
    if differing or not results["same_scores"]:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
