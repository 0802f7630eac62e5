"""``--trace``: what is refused, and what is printed and written."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from specrouter_dist.cli import trace as command
from specrouter_dist.cli.trace import check_trace_path, tracing
from specrouter_dist.cli.trace_text import trace_text
from specrouter_dist.errors import InputError, SpecRouterError, UnavailableError
from specrouter_dist.tracing.records import WorkerTrace
from specrouter_dist.tracing.shares import hops_of, shares_of
from specrouter_dist.tracing.timeline import timeline_of
from tests.unit.tracing.made import a_round


class FakeRunning:
    """Says what it was asked."""

    def __init__(self, error: SpecRouterError | None = None) -> None:
        self.asked: list[str] = []
        self.error = error

    def start_trace(self) -> None:
        self.asked.append("start")

    def take_trace(self) -> list[WorkerTrace]:
        self.asked.append("take")
        if self.error is not None:
            raise self.error
        return a_round()


def make_directory(path: Path) -> None:
    path.mkdir()


def make_read_only(path: Path) -> None:
    path.touch()
    path.chmod(0o400)


@pytest.mark.parametrize(
    ("name", "prepare", "message"),
    [
        ("out.svg", None, "--trace: a file that ends in .json, got"),
        ("no/out.json", None, "--trace: no directory"),
        ("out.json", make_directory, "--trace: cannot write"),
        ("out.json", make_read_only, "--trace: cannot write"),
    ],
)
def test_paths_that_are_refused(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    prepare: Callable[[Path], None] | None,
    message: str,
) -> None:
    if prepare is not None:
        prepare(tmp_path / name)
    # Root may write everywhere.
    monkeypatch.setattr("os.access", lambda path, mode: bool(path.stat().st_mode & 0o200))
    with pytest.raises(InputError, match=message):
        check_trace_path(tmp_path / name)
    assert prepare is not None or not (tmp_path / name).exists()


def test_the_check_writes_nothing(tmp_path: Path) -> None:
    check_trace_path(tmp_path / "out.json")
    assert list(tmp_path.iterdir()) == []


def test_without_a_path_nothing_is_asked() -> None:
    running = FakeRunning()
    with tracing(running, None, as_json=False):  # type: ignore[arg-type]
        pass
    assert running.asked == []


def test_shares_are_the_last_line_of_json_and_in_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, running = tmp_path / "out.json", FakeRunning()
    with tracing(running, path, as_json=True):  # type: ignore[arg-type]
        assert running.asked == ["start"]
    printed = json.loads(capsys.readouterr().out)["trace"]
    written = json.loads(path.read_text())
    assert written["otherData"] == {key: printed[key] for key in ("workers", "hops")}
    assert printed["file"] == str(path)
    drafter = printed["workers"][0]
    assert (drafter["worker"], drafter["forward_ms"], drafter["wall_ms"]) == ("drafter", 0.03, 0.16)
    assert (tmp_path / "out.svg").exists()


@pytest.mark.parametrize("error", [None, UnavailableError("no answer")])
def test_a_failed_command_ends_the_recording_and_writes_nothing(
    tmp_path: Path, error: SpecRouterError | None
) -> None:
    running = FakeRunning(error)
    with (
        pytest.raises(KeyboardInterrupt),
        tracing(running, tmp_path / "out.json", as_json=True),  # type: ignore[arg-type]
    ):
        raise KeyboardInterrupt
    assert running.asked == ["start", "take"]
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fails_at_the_end_is_one_error(tmp_path: Path) -> None:
    with (
        pytest.raises(SpecRouterError, match="--trace: cannot write"),
        tracing(FakeRunning(), tmp_path / "out.json", as_json=True),  # type: ignore[arg-type]
    ):
        (tmp_path / "out.json").mkdir()


def test_without_matplotlib_the_bars_are_text(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "draw_shares", lambda shares, path: False)
    with tracing(FakeRunning(), tmp_path / "out.json", as_json=False):  # type: ignore[arg-type]
        pass
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert lines[-1] == f"[trace: {tmp_path / 'out.json'}]"
    (bar,) = (line for line in lines if line.startswith("drafter |"))
    bar = bar.removeprefix("drafter |").removesuffix("|")
    # 30, 5, 15, 22, 20 and 68 of 160 us in 60 cells, each end rounded.
    assert bar == "#" * 11 + "=" * 2 + "p" * 6 + "s" * 8 + "h" * 7 + "." * 26


def test_the_table() -> None:
    timeline = timeline_of(a_round())
    text = trace_text(shares_of(timeline), hops_of(timeline), with_bars=False)
    assert text.splitlines() == [
        "worker    wall ms       forward      sampling        python serialisation"
        "           hop       waiting",
        "drafter       0.2         18.8%          3.1%          9.4%         13.8%"
        "         12.5%         42.5%",
        "target        0.1         30.3%          0.0%          9.1%         15.2%"
        "         18.9%         26.5%",
        "hop drafter -> target: median 30 us, p95 30 us, of 1 frames that were waited for",
        "hop target -> drafter: median 25 us, p95 25 us, of 1 frames that were waited for",
    ]


def test_members_of_one_worker_are_told_apart() -> None:
    (drafter, _) = shares_of(timeline_of(a_round()))
    two = {"small": drafter.members_ns["m"], "target": drafter.members_ns["m"]}
    lines = trace_text([replace(drafter, members_ns=two)], [], with_bars=False).splitlines()
    assert lines[2:] == [f"  {name:<6} {'':>9}{'18.8%':>14}{'3.1%':>14}" for name in two]


def test_a_record_that_is_not_whole_says_so() -> None:
    (drafter, _) = shares_of(timeline_of(a_round()))
    text = trace_text([replace(drafter, is_whole=False)], [], with_bars=False)
    assert "not the whole time of drafter" in text
