"""What waits to be sent on one link."""

import threading
from collections import deque
from collections.abc import Sequence
from itertools import islice

from specrouter_dist.errors import FrameError, LinkError
from specrouter_dist.links.control import MAX_ARRAY_LEN, WireMessage
from specrouter_dist.links.encoding import encode_message, join_messages
from specrouter_dist.speculation.messages import EdgeId, Truth

_HEADER_BYTES = 4
"""Of a frame's payload: array header and version."""
_MAX_MESSAGES = MAX_ARRAY_LEN - 1


class OutboxFullError(LinkError):
    """More is unsent than may be kept."""


class Outbox:
    """Encoded messages in the order in which they were put, and bounded.

    A Truth takes the place of an unsent Truth of its edge: it says all that the older one did.
    Until :meth:`release` only hellos come out. One thread puts, one (maybe another) takes.
    """

    def __init__(self, max_frame_bytes: int, max_buffered_bytes: int) -> None:
        self._max_frame_bytes = max_frame_bytes
        self._max_buffered_bytes = max_buffered_bytes
        self._changed = threading.Condition(threading.Lock())
        self._hellos: deque[bytes] = deque()
        self._messages: dict[EdgeId | int, bytes] = {}
        # Key of a message that nothing replaces.
        self._next_key = 0
        self._num_bytes = 0
        self._held = True
        self._closed = False

    def put(self, messages: Sequence[WireMessage]) -> None:
        """Queues messages.

        Raises:
            FrameError: one message alone is larger than a frame; nothing was queued.
            OutboxFullError: the buffer is full.
        """
        packed = [(self._key(message), encode_message(message)) for message in messages]
        largest = max(len(data) for _, data in packed)
        if largest + _HEADER_BYTES > self._max_frame_bytes:
            raise FrameError(f"a frame has at most {self._max_frame_bytes} bytes, got {largest}")
        with self._changed:
            for key, data in packed:
                self._num_bytes += len(data) - len(self._messages.get(key, b""))
                self._messages[key] = data
            if self._num_bytes > self._max_buffered_bytes:
                raise OutboxFullError(
                    f"the peer does not read: {self._num_bytes} bytes unsent, "
                    f"at most {self._max_buffered_bytes} are kept"
                )
            self._changed.notify()

    def put_hello(self, hello: bytes) -> None:
        """Queues the frame that goes first."""
        with self._changed:
            self._hellos.append(hello)
            self._changed.notify()

    def release(self) -> None:
        """The peer has proved itself: messages may go."""
        with self._changed:
            self._held = False
            self._changed.notify()

    def close(self) -> None:
        """Drops everything and ends every wait."""
        with self._changed:
            self._closed = True
            self._hellos.clear()
            self._messages.clear()
            self._changed.notify_all()

    def take(self) -> bytes | None:
        """The next frame's payload, or None if there is none now."""
        with self._changed:
            return self._take()

    def wait(self) -> bytes | None:
        """The next frame's payload as soon as there is one; None once closed."""
        with self._changed:
            while (payload := self._take()) is None and not self._closed:
                self._changed.wait()
            return payload

    def _key(self, message: WireMessage) -> EdgeId | int:
        if type(message) is Truth:
            return message.edge
        self._next_key += 1
        return self._next_key

    def _take(self) -> bytes | None:
        if self._hellos:
            return self._hellos.popleft()
        if self._held or not self._messages:
            return None
        fits_whole = self._num_bytes + _HEADER_BYTES <= self._max_frame_bytes
        if fits_whole and len(self._messages) <= _MAX_MESSAGES:
            payload = join_messages(list(self._messages.values()))
            self._messages.clear()
            self._num_bytes = 0
            return payload
        return join_messages(self._take_some())

    def _take_some(self) -> list[bytes]:
        some: list[bytes] = []
        room = self._max_frame_bytes - _HEADER_BYTES
        for key, data in list(islice(self._messages.items(), _MAX_MESSAGES)):
            if len(data) > room:
                break
            room -= len(data)
            self._num_bytes -= len(data)
            some.append(data)
            del self._messages[key]
        return some
