"""The documented commands of a cluster, one after the other, as a reader types them."""

import json
import re
import signal
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from benchmarks.clusters import CURRENT_CLUSTER
from tests.documented.examples import blocks
from tests.documented.lists import (
    DEPLOYED,
    LIVE_PLAN,
    SERVE_KEYS,
    SERVE_RUN,
    SHUTDOWN,
    START,
    STOP_POOL,
)
from tests.documented.places import environment, filled_in, make_place

pytestmark = [pytest.mark.ray, pytest.mark.timeout(400)]

DONE_WITHIN_S = 120.0
MARK = "SPECROUTER_DOCUMENTED"
"""In the environment of every process that the commands leave behind."""


@dataclass(frozen=True, slots=True)
class Shell:
    """What a reader types into, in ``place``."""

    place: Path

    def start(self, command: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["bash", "-c", filled_in(command, self.place)],
            cwd=self.place,
            env={**environment(), MARK: str(self.place)},
            stdin=subprocess.DEVNULL,
            stdout=(self.place / "printed.txt").open("w"),
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, command: str) -> str:
        """What it prints, to its end."""
        with self.start(command) as process:
            process.wait(DONE_WITHIN_S)
        printed = self.printed()
        assert process.returncode == 0, f"{command}: {process.returncode}\n{printed[-4000:]}"
        return printed

    def printed(self) -> str:
        return (self.place / "printed.txt").read_text()

    @contextmanager
    def running(self, command: str, *, until_it_says: str) -> Iterator[None]:
        """Until Ctrl-C, which ends it; the body runs when it has said that."""
        with self.start(command) as process:
            end = time.monotonic() + DONE_WITHIN_S
            while not re.search(until_it_says, self.printed()):
                is_well = process.poll() is None and time.monotonic() < end
                assert is_well, f"{command}:\n{self.printed()[-4000:]}"
                time.sleep(0.1)
            try:
                yield
            finally:
                process.send_signal(signal.SIGINT)
                process.wait(DONE_WITHIN_S)


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    assert not CURRENT_CLUSTER.exists(), "a cluster runs on this machine already"
    place = make_place(tmp_path_factory.mktemp("reader"))
    try:
        yield Shell(place)
    finally:
        # Not `ray stop`, which ends every cluster of the user.
        left = [process for process in psutil.process_iter() if is_of(process, place)]
        for process in left:
            process.kill()
        psutil.wait_procs(left, timeout=30)
        CURRENT_CLUSTER.unlink(missing_ok=True)


def is_of(process: psutil.Process, place: Path) -> bool:
    try:
        return process.environ().get(MARK) == str(place)
    except psutil.Error:
        return False


def wait_until_healthy() -> None:
    end = time.monotonic() + DONE_WITHIN_S
    while True:
        try:
            urllib.request.urlopen("http://127.0.0.1:8000/health", timeout=30).close()
            return
        except OSError as problem:
            assert time.monotonic() < end, problem
            time.sleep(0.2)


def run_python(capsys: pytest.CaptureFixture[str]) -> None:
    """Every Python example of the documentation, against the service that runs."""
    for block in blocks("python"):
        exec(compile(block.text, block.place, "exec"), {})
        assert capsys.readouterr().out.strip(), block.place


def test_the_commands_of_a_cluster(shell: Shell, capsys: pytest.CaptureFixture[str]) -> None:
    for command in START:
        shell.run(command)
    wait_until_healthy()
    for command, says in DEPLOYED.items():
        assert says in shell.run(command), command
    with shell.running(LIVE_PLAN, until_it_says="target"):
        pass
    rows = (shell.place / "in.jsonl").read_text().count("\n")
    for output in ("out.jsonl", "data/out.jsonl"):
        lines = [json.loads(line) for line in (shell.place / output).read_text().splitlines()]
        assert [line["error"] for line in lines] == [None] * rows
    shell.run(SHUTDOWN)
    with shell.running(SERVE_RUN, until_it_says="successfully"):
        run_python(capsys)
    with shell.running(SERVE_KEYS, until_it_says="serving 'tiny'"):
        pass
    assert "stopped" in shell.run(STOP_POOL)
