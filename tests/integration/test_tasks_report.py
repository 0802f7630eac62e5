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
from benchmarks.race import Race
from specrouter_dist.cli.session import open_pool
from specrouter_dist.config import SamplingParams
from specrouter_dist.pools.loading import POOLS_DIRECTORY
from specrouter_dist.serving.backend import PoolBackend
from specrouter_dist.serving.results import GenerateRequest
from specrouter_dist.tasks.model import write_model
from specrouter_dist.text.tokenizer import Tokenizer
from specrouter_dist.worker.local import LocalPool
from tests.pools import short_start, write_small_pool
from tests.task_prompts import TARGET, partition, texts

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
    for task in TASKS[:1]:
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


def run(place: Path, *options: str) -> int:
    """The exit code."""
    arguments = ["--pool", str(place / "pool.yaml"), "--data", str(place), "--short", "--json"]
    arguments += ["--backend", "local", "--temperatures", "0.8", "--out", str(place / "out")]
    with pytest.MonkeyPatch.context() as patch, short_start(), pytest.raises(SystemExit) as exited:
        patch.setattr(sys, "argv", ["tasks_report", *arguments, *options])
        tasks_report.main()
    return int(exited.value.code or 0)


@pytest.fixture(scope="module")
def found(place: Path) -> dict[str, Any]:
    """What a whole run has found."""
    assert run(place, "--control", str(POOLS_DIRECTORY / "tiny" / "small")) == 0
    content: dict[str, Any] = json.loads((place / "out" / "report.json").read_text())
    return content


def test_the_report_has_all_parts_tables_and_plots(place: Path, found: dict[str, Any]) -> None:
    assert found["num_differing"] == 0
    for split in ("dev", "eval"):
        rows = found["agreement"][split]["T=0.8"]["by_task"]
        assert set(rows) == {*TASKS, "none"}
        # All drafters are the same.
        assert all(len(set(row["agreement"].values())) == 1 for row in rows.values())
    part = found["speed"]["T=0.8"]
    assert set(part["rows"]) == {*TASKS, "all"}
    assert list(part["rows"]["all"]["tokens_per_second"]) == ARMS
    assert set(part["plans_without_feedback"]) == set(TASKS)
    halves = found["shift"]["T=0.8"]["halves"]
    assert [half["tasks"] for half in halves] == [TASKS[:1], TASKS[1:]]
    out = place / "out"
    tables = (out / "report.md").read_text()
    for heading in ("Agreement with the target, dev", "Tokens per second", "shifts half-way"):
        assert heading in tables
    for plot in ("agreement", "speed", "curves"):
        assert "<svg" in (out / f"{plot}.svg").read_text()


def test_a_text_that_is_not_the_targets_ends_with_1(
    place: Path, found: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    differing = {"T=0.8": {**found["speed"]["T=0.8"], "num_differing": 2}}
    monkeypatch.setattr(tasks_report, "speed", lambda *_: differing)
    assert run(place, "--parts", "speed") == 1
    assert json.loads((place / "out" / "report.json").read_text())["num_differing"] == 2


def test_texts_that_differ_are_counted(local_pool: LocalPool) -> None:
    pool, report = open_pool("tiny", dtype=None)
    race = Race(PoolBackend(pool, report, local_pool))
    ids = Tokenizer.load(TARGET).encode("Once upon a time")
    one, other = (
        [GenerateRequest(ids, SamplingParams(temperature=1.0, max_tokens=8, seed=seed))] * 3
        for seed in (1, 2)
    )
    results = race.passes([one, one], 2)
    assert race.num_differing == 0
    assert [len(passes) for passes in results] == [2, 2]
    race.run(other)
    assert race.num_differing == 3


def test_a_part_that_is_none_and_a_pool_without_tasks_are_refused(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(place, "--parts", "sped") == 2
    assert "'sped' (did you mean 'speed'?)" in capsys.readouterr().err
    (place / "other").mkdir()
    arguments = ["--pool", str(write_small_pool(place / "other")), "--out", str(place / "none")]
    monkeypatch.setattr(sys, "argv", ["tasks_report", *arguments])
    with pytest.raises(SystemExit, match="names no tasks"):
        tasks_report.main()
