"""Where a run goes on: after the whole rows that are in the output already."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from specrouter_dist.batch.keys import Key, key_of
from specrouter_dist.batch.lines import Line
from specrouter_dist.batch.output import STARTS
from specrouter_dist.errors import RequestError


@dataclass(frozen=True, slots=True)
class Done:
    """What is in an output already."""

    num_rows: int = 0
    num_failed: int = 0
    num_bytes: int = 0
    """Of the whole rows; what follows is half a row and is to be cut off."""


def find_done(output: BinaryIO, lines: Iterator[Line], settings_digest: str) -> Done:
    """Reads the output beside the rows of the input.

    Raises:
        RequestError: the output is of another input, of other settings, or of something else.
    """
    num_rows = num_failed = num_bytes = 0
    for raw in output:
        line = next(lines, None)
        where = f"line {num_rows + 1} of the output"
        if line is None:
            raise RequestError(f"{where}: the input has only {num_rows} rows")
        _check(raw, key_of(line, settings_digest), line, where)
        if not raw.endswith(b"\n"):
            # Cut off while it was written.
            break
        num_rows += 1
        num_failed += _has_error(raw, where)
        num_bytes += len(raw)
    return Done(num_rows, num_failed, num_bytes)


def _check(raw: bytes, key: Key, line: Line, where: str) -> None:
    """A row of ours begins with its key, and half a row with the half of it."""
    starts = [start.encode() for start in STARTS]
    if any(_agree(raw, start + str(key).encode() + b'"') for start in starts):
        return
    if not any(_agree(raw, start) for start in starts):
        raise RequestError(f"{where}: no row of a batch")
    settings = key.settings.encode()
    if not any(_agree(raw, start + settings) for start in starts):
        raise RequestError(f"{where}: made with another pool, --seed or other settings")
    raise RequestError(f"{where}: made of another input than line {line.number} holds now")


def _agree(raw: bytes, start: bytes) -> bool:
    """Whether one begins with the other; a line's end is not part of it."""
    length = min(len(raw), len(start))
    return raw[:length] == start[:length]


def _has_error(raw: bytes, where: str) -> bool:
    try:
        return json.loads(raw)["error"] is not None
    except (ValueError, KeyError):
        raise RequestError(f"{where}: no row of a batch") from None
