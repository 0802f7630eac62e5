"""Prompts to measure with, from a data folder of gzipped JSONL files."""

import gzip
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

DATA = Path("../shared/data")


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt and the task or suite that it belongs to."""

    task: str
    text: str


def read_prompts(data: Path, split: str, per_task: int, tasks: Sequence[str] = ()) -> list[Prompt]:
    """The first ``per_task`` prompts of every task of ``dev`` or suite of ``eval``, in turn.

    ``tasks``: only of these, by name; none: of all.

    Raises:
        SystemExit: there is no task or suite of such a name.
    """
    by_task: dict[str, list[Prompt]] = {}
    with gzip.open(data / f"{split}.jsonl.gz", "rt", encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            task = row.get("task") or row["suite"]
            text = row["prompt"] if "prompt" in row else row["turns"][0]
            by_task.setdefault(task, []).append(Prompt(task, text))
    if unknown := set(tasks) - by_task.keys():
        raise SystemExit(f"no such tasks in {split}: {sorted(unknown)}; there are {list(by_task)}")
    by_task = {task: by_task[task] for task in tasks or by_task}
    return [prompts[i] for i in range(per_task) for prompts in by_task.values() if i < len(prompts)]
