"""How far a batch is: a bar for people, lines of JSON for programs, a summary at the end."""

import asyncio
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from tqdm import tqdm

from specrouter_dist.batch.resume import Done
from specrouter_dist.errors import NotFoundError, SpecRouterError
from specrouter_dist.serving.batch_runner import Outcome

REPORT_EVERY_S = 1.0


@dataclass(slots=True)
class Tally:
    """Rows and tokens counted so far."""

    num_rows: int
    """Of the input."""
    num_resumed: int
    """Were there when the run began."""
    num_done: int
    """Are in the output, failed ones among them."""
    num_failed: int
    num_tokens: int = 0
    """Of the outputs of this run."""

    @classmethod
    def begin(cls, num_rows: int, done: Done) -> "Tally":
        """Nothing has been run."""
        return cls(num_rows, done.num_rows, done.num_rows, done.num_failed)

    def count(self, outcome: Outcome) -> None:
        """One more row is in the output."""
        self.num_done += 1
        self.num_failed += outcome.problem is not None
        self.num_tokens += outcome.num_tokens

    def to_json(self, elapsed_s: float) -> dict[str, Any]:
        """All of it, and the paces of this run."""
        num_new = self.num_done - self.num_resumed
        num_left = self.num_rows - self.num_done
        return {
            "rows": self.num_rows,
            "resumed": self.num_resumed,
            "done": self.num_done,
            "failed": self.num_failed,
            "tokens": self.num_tokens,
            "elapsed_s": round(elapsed_s, 3),
            "tokens_per_second": self.num_tokens / elapsed_s if elapsed_s > 0 else None,
            "eta_s": elapsed_s / num_new * num_left if num_new else None,
        }


class Progress:
    """Shows a tally as it grows; made by :func:`open_progress`.

    Args:
        tally: shown; counted up here.
        file: takes one line every REPORT_EVERY_S.
        bar: for people; on a terminal only.
        clock: in seconds.
    """

    def __init__(
        self,
        tally: Tally,
        file: TextIO | None,
        bar: "tqdm[Any]",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.tally = tally
        self._file = file
        self._bar = bar
        self._clock = clock
        self._started: float | None = None

    def count(self, outcome: Outcome) -> None:
        """One more row is in the output; a failed one is told by its line."""
        self.tally.count(outcome)
        self._bar.update()
        if outcome.problem is not None:
            message = " ".join(outcome.problem.split())
            self._bar.write(f"line {outcome.line_number}: {message}", file=sys.stderr)

    def to_json(self) -> dict[str, Any]:
        """The tally now; time counts from when the rows began, not from when the pool did."""
        elapsed_s = 0.0 if self._started is None else self._clock() - self._started
        return self.tally.to_json(elapsed_s)

    def report(self) -> None:
        """The tally now, to the bar and the file.

        Raises:
            SpecRouterError: the file cannot be written.
        """
        now = self.to_json()
        self._bar.set_postfix(failed=now["failed"], tokens=now["tokens"])
        if self._file is None:
            return
        try:
            self._file.write(json.dumps(now) + "\n")
            self._file.flush()
        except OSError as problem:
            raise SpecRouterError(f"--progress: cannot write: {problem.strerror}") from None

    async def report_for_ever(self) -> None:
        """From the beginning of the rows until cancelled."""
        self._started = self._clock()
        while True:
            self.report()
            await asyncio.sleep(REPORT_EVERY_S)


@contextmanager
def open_progress(tally: Tally, path: Path | None) -> Iterator[Progress]:
    """The file gets its last line when the context ends, however it ends.

    Raises:
        NotFoundError: the file cannot be written.
    """
    file = None
    try:
        file = None if path is None else path.open("a", encoding="utf-8")
    except OSError as problem:
        line = f"--progress: cannot write {str(path)!r}: {problem.strerror}"
        raise NotFoundError(line, field="progress") from None
    bar = tqdm(
        total=tally.num_rows, initial=tally.num_done, unit="row", disable=None, file=sys.stderr
    )
    progress = Progress(tally, file, bar)
    try:
        yield progress
    finally:
        bar.close()
        if file is not None:
            with file:
                progress.report()
