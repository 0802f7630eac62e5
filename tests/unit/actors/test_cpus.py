"""Whether a CPU of the node is free, from how long CPUs have been idle."""

import os
from pathlib import Path

import pytest

from specrouter_dist.actors import cpus
from specrouter_dist.actors.cpus import SharedCpus


class Node:
    """Of a test."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.idle_s: float | None = 5000.0

    def pass_by(self, elapsed_s: float, num_idle: float) -> None:
        """So many CPUs were idle meanwhile."""
        assert self.idle_s is not None
        self.now_s += elapsed_s
        self.idle_s += elapsed_s * num_idle

    def shared(self) -> SharedCpus:
        return SharedCpus(lambda: self.idle_s, lambda: self.now_s)


@pytest.mark.parametrize(
    ("num_idle", "taken"), [(0.0, True), (0.6, True), (0.9, False), (2.0, False)]
)
def test_they_are_taken_while_no_whole_one_is_idle(num_idle: float, taken: bool) -> None:
    node = Node()
    shared = node.shared()
    node.pass_by(0.5, num_idle)
    assert shared.are_taken() is taken


def test_what_was_lately_counts() -> None:
    node = Node()
    shared = node.shared()
    for num_idle, taken in ((0.0, True), (2.0, False), (0.0, True)):
        node.pass_by(1.0, num_idle)
        assert shared.are_taken() is taken


def test_a_moment_too_short_to_be_counted_changes_nothing() -> None:
    node = Node()
    shared = node.shared()
    node.pass_by(1.0, 0.0)
    assert shared.are_taken()
    for _ in range(9):
        node.pass_by(0.01, 2.0)
        assert shared.are_taken()
    node.pass_by(0.02, 2.0)
    assert not shared.are_taken()


def test_where_nobody_counts_there_is_always_one_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpus, "_STAT", cpus._STAT / "none")
    assert cpus.idle_s() is None
    node = Node()
    node.idle_s = None
    shared = node.shared()
    node.now_s += 1.0
    assert not shared.are_taken()


def test_only_own_cpus_count(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    lines = (
        "cpu  1 1 1 900 99 0 0",
        "cpu0 1 1 1 100 20 0 0",
        "cpu1 1 1 1 300 4 0 0",
        "cpu10 1 1 1 500 75 0 0",
        "",
    )
    file = tmp_path / "stat"
    file.write_text("\n".join(lines))
    monkeypatch.setattr(cpus, "_STAT", file)
    monkeypatch.setattr(cpus, "own_cpus", lambda: {0, 10})
    monkeypatch.setattr("os.sysconf", lambda name: 100)
    assert cpus.idle_s() == pytest.approx((120 + 575) / 100)


def test_where_nothing_is_counted_nobody_knows(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "stat"
    monkeypatch.setattr(cpus, "_STAT", file)
    for line in ("cpu0 0 0 0 0 0 0 0", "cpu7 1 1 1 100 20 0 0"):
        file.write_text(line)
        monkeypatch.setattr(cpus, "own_cpus", lambda: {0})
        assert cpus.idle_s() is None


def test_own_cpus_are_some_of_this_machine() -> None:
    assert cpus.own_cpus()
    assert len(cpus.own_cpus()) <= (os.cpu_count() or 1)
