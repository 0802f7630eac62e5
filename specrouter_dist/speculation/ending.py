"""Where a stream ends."""

from collections.abc import Sequence
from typing import Protocol


class Ending(Protocol):
    """Where a stream ends."""

    def cut(self, tokens: Sequence[int]) -> int | None:
        """How many of the newly generated ``tokens`` stand if the stream ends within them."""
        ...


class StopIds:
    """A stream ends with the first of these ids."""

    def __init__(self, ids: Sequence[int]) -> None:
        self._ids = frozenset(ids)

    def cut(self, tokens: Sequence[int]) -> int | None:
        return next((i + 1 for i, token in enumerate(tokens) if token in self._ids), None)
