"""What ``make tasks-report`` measures, and what its control is."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import tasks_report
from benchmarks.task_agreement import Models
from benchmarks.task_tables import to_markdown
from benchmarks.tasks_report import parse_arguments
from specrouter_dist.pools.loading import POOLS_DIRECTORY

ROOT = Path(__file__).parents[3]
BASE = POOLS_DIRECTORY / "tiny" / "small"


def arguments(monkeypatch: pytest.MonkeyPatch, *given: str) -> Any:
    monkeypatch.setattr(sys, "argv", ["tasks_report", *given])
    return parse_arguments()


def made(*variables: str) -> list[str]:
    """What make would call the report with."""
    command = ["make", "--dry-run", "--no-print-directory", "tasks-report", *variables]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    (line,) = (one for one in printed.replace("\\\n", "").splitlines() if "tasks_report" in one)
    return line.partition("benchmarks.tasks_report")[2].split()


@pytest.fixture
def pooled(tmp_path: Path) -> Path:
    """What ``tasks align --pooled`` leaves if no drafter was better."""
    out = tmp_path / "out"
    (out / "training" / "pooled").mkdir(parents=True)
    (out / "pool.yaml").touch()
    return out


def test_without_arguments_the_shipped_pool_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    found = arguments(monkeypatch)
    assert (found.pool, found.control, found.out) == ("tiny-tasks", None, Path("build/tasks"))
    assert vars(arguments(monkeypatch, *made("BENCH_ARGS=", "DATA=../shared/data"))) == vars(found)


def test_make_passes_pool_and_control(monkeypatch: pytest.MonkeyPatch) -> None:
    found = arguments(monkeypatch, *made("ALIGNED=a/pool.yaml", f"CONTROL={BASE}"))
    assert (found.pool, found.control, found.per_task) == ("a/pool.yaml", BASE, 1)


def test_a_control_that_was_never_better_is_the_base_drafter(
    pooled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = []

    def load(pool: object, checked: object, base: str, control: Path | None) -> None:
        loaded.append((base, control))

    monkeypatch.setattr(Models, "load", load)
    monkeypatch.setattr(tasks_report, "told_prompts", lambda *_: [])
    monkeypatch.setattr(tasks_report, "first_of_each", lambda *_: [])
    monkeypatch.setattr(tasks_report.task_agreement, "measure", lambda *_: {})
    monkeypatch.setattr(tasks_report, "draw", lambda *_: None)
    monkeypatch.setattr(
        tasks_report, "to_markdown", lambda content: to_markdown({**content, "agreement": {}})
    )
    given = ["--control", str(pooled / "pooled"), "--out", str(tmp_path), "--parts", "agreement"]
    monkeypatch.setattr(sys, "argv", ["tasks_report", *given, "--json"])
    with pytest.raises(SystemExit) as exited:
        tasks_report.main()
    assert exited.value.code == 0
    assert loaded == [("small", BASE)]
    content = json.loads((tmp_path / "report.json").read_text())
    assert content["control"].startswith("the base drafter, as there is no ")
    assert f"The control is {content['control']}.\n" in (tmp_path / "report.md").read_text()


@pytest.mark.parametrize("is_misspelt", [True, False])
def test_a_control_that_is_elsewhere_or_not_trained_yet_is_refused(
    pooled: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    is_misspelt: bool,
) -> None:
    if is_misspelt:
        (pooled / "pooled-layers").mkdir()
    else:
        (pooled / "pool.yaml").unlink()
    with pytest.raises(SystemExit, match="2"):
        arguments(monkeypatch, "--control", str(pooled / "pooled"))
    assert "--control: no folder" in capsys.readouterr().err


def test_a_base_drafter_that_the_pool_has_not_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = ["tasks_report", "--base", "smal", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", given)
    with pytest.raises(SystemExit, match=r"no drafter 'smal' \(did you mean 'small'"):
        tasks_report.main()
