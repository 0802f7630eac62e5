"""Answers come in any order and are written in the order of their rows."""

from typing import Generic, TypeVar

T = TypeVar("T")


class ReorderBuffer(Generic[T]):
    """Holds what is early.

    Args:
        start: index of the first item to be given out.
    """

    def __init__(self, start: int = 0) -> None:
        self._next = start
        self._early: dict[int, T] = {}

    def __len__(self) -> int:
        """How many items are held."""
        return len(self._early)

    def put(self, index: int, item: T) -> list[T]:
        """Takes an item; gives those whose turn has come, in order."""
        assert index >= self._next and index not in self._early, f"item {index} came twice"
        self._early[index] = item
        ready: list[T] = []
        while self._next in self._early:
            ready.append(self._early.pop(self._next))
            self._next += 1
        return ready
