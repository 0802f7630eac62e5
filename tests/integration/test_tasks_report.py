"""``make tasks-report`` in short, in this process: a pool with a drafter for each task."""

import gzip
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks import tasks_report
from specrouter_dist.pools.loading import POOLS_DIRECTORY
from specrouter_dist.tasks.model import write_model
from tests.pools import short_start, write_small_pool
from tests.task_prompts import partition, texts

pytestmark = pytest.mark.timeout(300)

TASKS = [task.name for task in partition().model.header.tasks]
ARMS = [
    *("alone", "base", "task", "router", "label"),
    *("no classifier", "random", "no feedback"),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pool as ``tasks align`` writes it, whose drafters are the base; prompts with labels."""
    place = tmp_path_factory.mktemp("report")
    tiny = POOLS_DIRECTORY / "tiny"
    members: list[dict[str, str]] = [
        {"name": "small", "kind": "model", "role": "drafter", "model": str(tiny / "small")}
    ]
    for task in TASKS[:2]:
        shutil.copytree(tiny / "small", place / task)
        members.append({**members[0], "name": f"small-{task}", "model": task})
        write_curve(place / "training" / task)
    members.append(
        {**members[0], "name": "target", "role": "target", "model": str(tiny / "target")}
    )
    write_model(partition().model, place / "tasks.safetensors")
    content = {"name": "aligned", "tasks": "tasks.safetensors", "members": members}
    (place / "pool.yaml").write_text(yaml.safe_dump(content))
    for split, key in (("dev", "task"), ("eval", "suite")):
        rows: list[dict[str, object]] = [
            {key: label, "prompt": text} for label, own in texts(3).items() for text in own
        ]
        rows.append({key: "translate", "prompt": "Ποιο είναι το νόημα της ζωής;"})
        with gzip.open(place / f"{split}.jsonl.gz", "wt", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
    return place


def write_curve(folder: Path) -> None:
    folder.mkdir(parents=True)
    lines = [{"step": 1, "loss": 2.0}, {"step": 1, "dev": 0.5}, {"step": 2, "dev": 0.6}]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "drafter.jsonl").write_text(text)


def run(place: Path, monkeypatch: pytest.MonkeyPatch, *options: str) -> int:
    arguments = ["--pool", str(place / "pool.yaml"), "--data", str(place), "--short", "--json"]
    arguments += ["--backend", "local", "--out", str(place / "out"), *options]
    monkeypatch.setattr(sys, "argv", ["tasks_report", *arguments])
    with short_start(), pytest.raises(SystemExit) as exited:
        tasks_report.main()
    return int(exited.value.code or 0)


def test_the_report_has_all_parts_tables_and_plots(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    control = str(POOLS_DIRECTORY / "tiny" / "small")
    assert run(place, monkeypatch, "--control", control) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert found["num_differing"] == 0
    for split in ("dev", "eval"):
        greedy = found["agreement"][split]["T=0.0"]
        assert set(greedy["by_task"]) == {*TASKS, "none"}
        # All drafters are the same.
        for row in greedy["by_task"].values():
            assert len(set(row["agreement"].values())) == 1
    for part in found["speed"].values():
        assert set(part["rows"]) == {*TASKS, "all"}
        assert list(part["rows"]["all"]["tokens_per_second"]) == ARMS
        assert set(part["plans_without_feedback"]) == set(TASKS)
    for part in found["shift"].values():
        assert [half["tasks"] for half in part["halves"]] == [TASKS[:1], TASKS[1:]]
    out = place / "out"
    assert json.loads((out / "report.json").read_text())["speed"] == found["speed"]
    tables = (out / "report.md").read_text()
    for heading in ("Agreement with the target, dev", "Tokens per second", "shifts half-way"):
        assert heading in tables
    for plot in ("agreement", "speed", "curves"):
        assert "<svg" in (out / f"{plot}.svg").read_text()


def test_a_text_that_is_not_the_targets_ends_with_1(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    measure = tasks_report.task_shift.measure

    def differing(*arguments: Any) -> dict[str, Any]:
        return {**measure(*arguments), "num_differing": 1}

    monkeypatch.setattr(tasks_report.task_shift, "measure", differing)
    assert run(place, monkeypatch, "--parts", "shift") == 1
    assert json.loads(capsys.readouterr().out)["num_differing"] == 2


def test_a_part_that_is_none_and_a_pool_without_tasks_are_refused(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(place, monkeypatch, "--parts", "sped") == 2
    assert "'sped' (did you mean 'speed'?)" in capsys.readouterr().err
    (place / "other").mkdir()
    arguments = ["--pool", str(write_small_pool(place / "other")), "--out", str(place / "none")]
    monkeypatch.setattr(sys, "argv", ["tasks_report", *arguments])
    with pytest.raises(SystemExit, match="names no tasks"):
        tasks_report.main()
