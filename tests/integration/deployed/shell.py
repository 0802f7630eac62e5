"""Commands as a reader types them, in a directory with what a reader brings."""

import re
import shlex
import signal
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import ray

from benchmarks.clusters import CURRENT_CLUSTER
from specrouter_dist.cli import main as cli
from tests.documented.places import environment, filled_in

URL = "http://127.0.0.1:8000"
DASHBOARD = "http://127.0.0.1:8265"
DONE_WITHIN_S = 150.0
_MARK = "SPECROUTER_TYPED_IN"
"""In the environment of every process that the commands leave behind."""


@dataclass(frozen=True, slots=True)
class Shell:
    """What a reader types into, in ``place``."""

    place: Path

    def run(self, command: str) -> str:
        """What it prints, to its end."""
        with self._start(command) as process:
            process.wait(DONE_WITHIN_S)
        assert process.returncode == 0, f"{command}: {process.returncode}\n{self._printed()}"
        return self._printed()

    def run_here(self, command: str, capsys: pytest.CaptureFixture[str]) -> str:
        """The same of a command of ours in this process, which has imported everything."""
        program, *arguments = shlex.split(filled_in(command, self.place))
        assert program == "specrouter"
        capsys.readouterr()
        with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as exited:
            patch.chdir(self.place)
            try:
                cli.main(arguments)
            finally:
                ray.shutdown()
        out, err = capsys.readouterr()
        assert exited.value.code == 0, f"{command}: {exited.value.code}\n{err}"
        return out + err

    @contextmanager
    def running(self, command: str, *, until_it_says: str) -> Iterator[None]:
        """Until Ctrl-C, which ends it; the body runs when it has said that."""
        with self._start(command) as process:
            end = time.monotonic() + DONE_WITHIN_S
            while not re.search(until_it_says, self._printed()):
                is_well = process.poll() is None and time.monotonic() < end
                assert is_well, f"{command}:\n{self._printed()}"
                time.sleep(0.1)
            try:
                yield
            finally:
                process.send_signal(signal.SIGINT)
                process.wait(DONE_WITHIN_S)

    def wait_until_healthy(self) -> None:
        """The service that has been started."""
        end = time.monotonic() + DONE_WITHIN_S
        while True:
            try:
                urllib.request.urlopen(f"{URL}/health", timeout=30).close()
                return
            except OSError as problem:
                assert time.monotonic() < end, problem
                time.sleep(0.2)

    def end_everything(self) -> None:
        """Not by `ray stop`, which ends every cluster of the user."""
        left = {one for process in psutil.process_iter() for one in self._left_with(process)}
        for process in left:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(list(left), timeout=30)
        CURRENT_CLUSTER.unlink(missing_ok=True)

    def _start(self, command: str) -> subprocess.Popen[bytes]:
        with (self.place / "printed.txt").open("w") as printed:
            return subprocess.Popen(
                ["bash", "-c", filled_in(command, self.place)],
                cwd=self.place,
                env={**environment(), _MARK: str(self.place)},
                stdin=subprocess.DEVNULL,
                stdout=printed,
                stderr=subprocess.STDOUT,
            )

    def _printed(self) -> str:
        return (self.place / "printed.txt").read_text()

    def _left_with(self, process: psutil.Process) -> list[psutil.Process]:
        """It and its children, of which Ray's overwrite their environment with their titles."""
        try:
            is_ours = process.environ().get(_MARK) == str(self.place)
            return [process, *process.children(recursive=True)] if is_ours else []
        except psutil.Error:
            return []
