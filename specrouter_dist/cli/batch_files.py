"""The files of a batch: one is read, one only grows."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

from specrouter_dist.batch.lines import Line, read_lines
from specrouter_dist.batch.resume import Done, find_done
from specrouter_dist.errors import NotFoundError, RequestError, SpecRouterError


class BatchInput:
    """The rows to be run."""

    def __init__(self, path: Path) -> None:
        """
        Raises:
            InputError: no file that can be read, or one without rows.
        """
        self.path = path
        _check_regular("input", path)
        try:
            with path.open("rb") as file:
                self.num_rows = sum(1 for _ in read_lines(file))
        except OSError as problem:
            line = f"input: cannot read {str(path)!r}: {problem.strerror}"
            raise NotFoundError(line, field="input") from None
        if not self.num_rows:
            raise RequestError(f"input: {str(path)!r} holds no rows", field="input")

    @contextmanager
    def lines(self, start: int = 0) -> Iterator[Iterator[Line]]:
        """The rows from that one on."""
        with self.path.open("rb") as file:
            yield islice(read_lines(file), start, None)


class BatchOutput:
    """Whole lines, one after the other. While it is open nobody else writes there.

    Made by :func:`open_output`.
    """

    def __init__(self, path: Path, file_descriptor: int) -> None:
        self._path = path
        self._fd = file_descriptor

    def find_done(self, batch: BatchInput, settings_digest: str) -> Done:
        """What is there already.

        Raises:
            RequestError: it is of another batch.
        """
        try:
            with batch.lines() as lines, self._path.open("rb") as file:
                return find_done(file, lines, settings_digest)
        except RequestError as problem:
            raise RequestError(
                f"output: {str(self._path)!r} cannot be continued: {problem}; --overwrite begins "
                "anew",
                field="output",
            ) from None

    def cut(self, num_bytes: int) -> None:
        """Only so many bytes stay; what is written follows them."""
        os.ftruncate(self._fd, num_bytes)
        os.lseek(self._fd, num_bytes, os.SEEK_SET)

    def write(self, content: bytes) -> None:
        """Appends; when it returns, a killed process does not lose it.

        Raises:
            SpecRouterError: the disk is full, for example.
        """
        rest = memoryview(content)
        try:
            while rest:
                rest = rest[os.write(self._fd, rest) :]
        except OSError as problem:
            raise SpecRouterError(
                f"output: cannot write {str(self._path)!r}: {problem.strerror}"
            ) from None


@contextmanager
def open_output(path: Path) -> Iterator[BatchOutput]:
    """The output, which is made if there is none.

    Raises:
        InputError: it cannot be written, or another run writes it.
    """
    _check_regular("output", path)
    try:
        file_descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as problem:
        line = f"output: cannot write {str(path)!r}: {problem.strerror}"
        raise NotFoundError(line, field="output") from None
    try:
        _lock(path, file_descriptor)
        yield BatchOutput(path, file_descriptor)
        os.fsync(file_descriptor)
    finally:
        os.close(file_descriptor)


def _check_regular(field: str, path: Path) -> None:
    """What a run goes on with is read again: no pipe, no device."""
    if path.exists() and not path.is_file():
        raise RequestError(f"{field}: {str(path)!r} is no regular file", field=field)


def _lock(path: Path, file_descriptor: int) -> None:
    """Ends with the process, however it ends."""
    try:
        fcntl.flock(file_descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise RequestError(
            f"output: another run is writing {str(path)!r}", field="output"
        ) from None
    except OSError:
        # Some network file systems have no locks.
        return
