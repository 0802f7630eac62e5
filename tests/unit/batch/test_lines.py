"""Lines are read one at a time, whatever a file holds."""

import io
import tracemalloc

import pytest

from specrouter_dist.batch import lines
from specrouter_dist.batch.lines import Line, read_lines


def test_rows_are_counted_without_blank_lines() -> None:
    file = io.BytesIO(b'{"a": 1}\n\n  \r\n{"b": 2}\r\nlast')
    assert list(read_lines(file)) == [
        Line(0, 1, b'{"a": 1}'),
        Line(1, 4, b'{"b": 2}'),
        Line(2, 5, b"last"),
    ]


def test_too_long_a_line_is_one_row_and_the_next_is_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lines, "MAX_LINE_BYTES", 8)
    monkeypatch.setattr(lines, "_SKIPPED_BYTES", 4)
    for length in range(6, 30):
        file = io.BytesIO(b"x" * length + b"\nnext")
        first, second = read_lines(file)
        assert first.is_whole == (length + 1 <= 8)
        assert (second.index, second.number, second.content) == (1, 2, b"next")


def test_memory_does_not_grow_with_the_file() -> None:
    class Endless(io.BytesIO):
        def readline(self, _: int | None = -1) -> bytes:
            return b'{"prompt": "a"}\n'

    rows = read_lines(Endless())
    tracemalloc.start()
    try:
        for _ in range(20_000):
            next(rows)
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()
