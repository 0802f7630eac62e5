"""What waits to be sent on one link."""

import itertools
import threading
from collections.abc import Sequence

import msgpack

from specrouter_dist.errors import FrameError, LinkError
from specrouter_dist.links.control import MAX_ARRAY_LEN, WireMessage
from specrouter_dist.links.encoding import join_messages, message_fields
from specrouter_dist.speculation.messages import EdgeId, Truth

_HEADER_BYTES = 4
"""Of a frame's payload: array header and version."""
_MAX_MESSAGES = MAX_ARRAY_LEN - 1


class OutboxFullError(LinkError):
    """More is unsent than may be kept."""


class Outbox:
    """Encoded messages in the order in which they were put, and bounded.

    A Truth takes the place of an unsent Truth of its edge: it says all that the older one did.
    Until :meth:`release` only the hello comes out. One thread puts, one (maybe another) takes.
    """

    def __init__(self, max_frame_bytes: int, max_buffered_bytes: int) -> None:
        self._max_frame_bytes = max_frame_bytes
        self._max_buffered_bytes = max_buffered_bytes
        self._lock = threading.Lock()
        # Of its own: its buffer is allocated once, and one thread packs.
        self._pack = msgpack.Packer().pack
        self._hello: bytes | None = None
        # By edge for a Truth, else by a number that nothing else has.
        self._messages: dict[EdgeId | int, bytes] = {}
        self._numbers = itertools.count()
        self._num_bytes = 0
        self._held = True

    def pass_by(self, messages: Sequence[WireMessage]) -> bytes | None:
        """The frame of messages that may go before anything is queued; None: put them."""
        if self._held or self._messages or len(messages) > _MAX_MESSAGES:
            return None
        payload = join_messages([self._pack(message_fields(message)) for message in messages])
        return payload if len(payload) <= self._max_frame_bytes else None

    def put(self, messages: Sequence[WireMessage]) -> None:
        """Queues messages.

        Raises:
            FrameError: one message alone is larger than a frame; nothing was queued.
            OutboxFullError: the buffer is full.
        """
        packed = [self._pack(message_fields(message)) for message in messages]
        largest = max(map(len, packed))
        if largest + _HEADER_BYTES > self._max_frame_bytes:
            raise FrameError(f"a frame has at most {self._max_frame_bytes} bytes, got {largest}")
        with self._lock:
            for message, data in zip(messages, packed, strict=True):
                key = message.edge if type(message) is Truth else next(self._numbers)
                self._num_bytes += len(data) - len(self._messages.get(key, b""))
                self._messages[key] = data
        if self._num_bytes > self._max_buffered_bytes:
            raise OutboxFullError(
                f"the peer does not read: {self._num_bytes} bytes unsent, "
                f"at most {self._max_buffered_bytes} are kept"
            )

    def put_hello(self, hello: bytes) -> None:
        """Queues the frame that goes first."""
        self._hello = hello

    def release(self) -> None:
        """The peer has proved itself: messages may go."""
        self._held = False

    def take(self) -> bytes | None:
        """The next frame's payload, or None if there is none now."""
        if self._hello is not None:
            hello, self._hello = self._hello, None
            return hello
        if self._held or not self._messages:
            return None
        with self._lock:
            fits_whole = self._num_bytes + _HEADER_BYTES <= self._max_frame_bytes
            if not fits_whole or len(self._messages) > _MAX_MESSAGES:
                return join_messages(self._take_some())
            packed = list(self._messages.values())
            self._messages.clear()
            self._num_bytes = 0
        return join_messages(packed)

    def _take_some(self) -> list[bytes]:
        some: list[bytes] = []
        room = self._max_frame_bytes - _HEADER_BYTES
        for key, data in list(itertools.islice(self._messages.items(), _MAX_MESSAGES)):
            if len(data) > room:
                break
            room -= len(data)
            self._num_bytes -= len(data)
            some.append(data)
            del self._messages[key]
        return some
