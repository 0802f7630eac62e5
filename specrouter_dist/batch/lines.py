"""The lines of an input file, one at a time."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from typing import BinaryIO

MAX_LINE_BYTES = 16 * 1024 * 1024
"""Longer lines are bad rows; no more than this is held of them."""
_SKIPPED_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Line:
    """One row as it stands in the file."""

    index: int
    """Of the row, from 0; blank lines are no rows."""
    number: int
    """Of the line in the file, from 1."""
    content: bytes
    """Without the line's end."""
    is_whole: bool = True
    """False: longer than MAX_LINE_BYTES, and ``content`` is its beginning."""


def read_lines(file: BinaryIO) -> Iterator[Line]:
    """The rows of a file, from where it stands."""
    index = 0
    for number in count(1):
        raw = file.readline(MAX_LINE_BYTES + 1)
        if not raw:
            return
        is_whole = len(raw) <= MAX_LINE_BYTES
        if not is_whole:
            _skip_rest(file, raw)
        content = raw.strip()
        if content:
            yield Line(index, number, content, is_whole)
            index += 1


def _skip_rest(file: BinaryIO, raw: bytes) -> None:
    while raw and not raw.endswith(b"\n"):
        raw = file.readline(_SKIPPED_BYTES)
