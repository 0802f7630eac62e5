"""The driver's side of a worker: its process, and what that and its children take."""

import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from threading import Timer
from typing import Self, TypeVar

from benchmarks.peers.lines import Answer, LineError, Ready, Request, to_line
from benchmarks.peers.processes import Family, end

ROOT = Path(__file__).parents[2]
_LAST_LINES = 8

_Line = TypeVar("_Line", Ready, Answer)


class WorkerError(Exception):
    """A worker that did not start, died, or answered what cannot be."""


class Worker:
    """One process that answers requests, and its children.

    Args:
        name: for messages.
        command: with its arguments; runs at the root of the repository.
        environment: added to this process's.
        start_s: it must be ready within.
        answer_s: every answer must come within.

    Raises:
        WorkerError: it does not start.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str],
        *,
        start_s: float = 600.0,
        answer_s: float = 120.0,
    ) -> None:
        self._name = name
        self._answer_s = answer_s
        # A file, not a pipe that could fill; closed with the worker.
        self._errors = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                cwd=ROOT,
                env={**os.environ, **environment},
                text=True,
            )
        except OSError as error:
            self._errors.close()
            raise WorkerError(f"{name}: {error}") from error
        self._family = Family(self._process.pid)
        try:
            self.versions = self._read(Ready, start_s).versions
        except BaseException:
            self.close()
            raise

    def ask(self, request: Request) -> Answer:
        """One request's output.

        Raises:
            WorkerError: there is none.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(to_line(request))
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise WorkerError(self._ending()) from error
        return self._read(Answer, self._answer_s)

    def cpu_s(self) -> float:
        """Processor time of all its processes since their starts."""
        return self._family.cpu_s()

    def rss_bytes(self) -> int:
        """Memory of all its processes; what they share counts in each."""
        return self._family.rss_bytes()

    def close(self) -> None:
        """Lets it end by itself, and ends what is left of it."""
        family = self._family.members()
        assert self._process.stdin is not None and self._process.stdout is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        end(family)
        self._process.wait()
        self._process.stdout.close()
        self._errors.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _read(self, kind: type[_Line], limit_s: float) -> _Line:
        assert self._process.stdout is not None
        watchdog = Timer(limit_s, self._process.kill)
        watchdog.start()
        line = self._process.stdout.readline()
        watchdog.cancel()
        if not line:
            raise WorkerError(self._ending())
        try:
            return kind.parse(line)
        except LineError as error:
            raise WorkerError(f"{self._name}: {error}") from error

    def _ending(self) -> str:
        """How it ended, with the last that it wrote."""
        code = self._process.wait()
        self._errors.seek(0)
        last = self._errors.read().splitlines()[-_LAST_LINES:]
        return "\n  ".join([f"{self._name}: ended with code {code}", *last])
