"""Prompts to measure with: of all tasks, or of those that are named."""

import gzip
import json
from pathlib import Path

import pytest

from benchmarks.prompts import read_prompts


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rows = [{"suite": suite, "turns": [f"{suite} {i}"]} for i in range(3) for suite in "abc"]
    with gzip.open(tmp_path / "eval.jsonl.gz", "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    return tmp_path


def test_tasks_come_in_turn_and_only_those_that_are_named(data: Path) -> None:
    texts = [prompt.text for prompt in read_prompts(data, "eval", 2)]
    assert texts == ["a 0", "b 0", "c 0", "a 1", "b 1", "c 1"]
    texts = [prompt.text for prompt in read_prompts(data, "eval", 2, ["c", "a"])]
    assert texts == ["c 0", "a 0", "c 1", "a 1"]


def test_a_task_that_is_not_there_is_refused(data: Path) -> None:
    with pytest.raises(SystemExit, match=r"no such tasks in eval: \['d'\]"):
        read_prompts(data, "eval", 2, ["a", "d"])
