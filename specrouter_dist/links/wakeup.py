"""Items from other threads to the engine thread, which may be asleep in its selector."""

import contextlib
import selectors
import socket
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Mailbox(Generic[T]):
    """Any thread puts; the engine thread, woken if it waits, gives each item to ``deliver``."""

    def __init__(self, selector: selectors.BaseSelector, deliver: Callable[[T], None]) -> None:
        self._selector = selector
        self._deliver = deliver
        self._items: deque[T] = deque()
        self._awake_end, self._waking_end = socket.socketpair()
        self._awake_end.setblocking(False)
        self._waking_end.setblocking(False)
        # Whether a wake-up is on its way: the next putter need not send another.
        self._woken = False
        selector.register(self._awake_end, selectors.EVENT_READ, self._on_ready)

    def __len__(self) -> int:
        return len(self._items)

    def put(self, item: T) -> None:
        """Hands the item over. Thread-safe; never blocks."""
        self._items.append(item)
        if not self._woken:
            self._woken = True
            # Full: enough wake-ups are on their way. Closed: nobody will look any more.
            with contextlib.suppress(OSError):
                self._waking_end.send(b"\0")

    def close(self) -> None:
        """Frees the sockets; later items are dropped."""
        self._selector.unregister(self._awake_end)
        self._awake_end.close()
        self._waking_end.close()
        self._items.clear()

    def _on_ready(self, _: int) -> None:
        self._awake_end.recv(4096)
        # Before the items are looked at: what is put from now on wakes again.
        self._woken = False
        while self._items:
            self._deliver(self._items.popleft())
