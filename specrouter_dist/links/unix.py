"""Frames over a unix socket, moved by the engine thread itself.

A frame is a little-endian uint32 length and that many bytes, given to the kernel in one call.
"""

import contextlib
import os
import selectors
import shutil
import socket
import tempfile
from collections.abc import Callable, Sequence

from specrouter_dist.errors import FrameError, LinkError
from specrouter_dist.links.control import WireMessage
from specrouter_dist.links.link import Link
from specrouter_dist.links.outbox import Outbox

Selector = selectors.BaseSelector
OnReady = Callable[[int], None]
"""What is registered with the selector as data: called with the events that are ready."""

_LENGTH_BYTES = 4
_READ_BYTES = 64 * 1024
"""Most bytes taken per wake-up, so that one peer does not starve the others. Python allocates as
much for every read; from 128 KiB on that is a mapping of memory, which costs 10 µs."""
_SOCKET_BUFFER_BYTES = 1024 * 1024
_BACKLOG = 128
_MAX_PATH_BYTES = 100
"""The kernel's limit is 107 on Linux and 103 on macOS."""


def frame_of(payload: bytes) -> bytes:
    """The bytes on the socket."""
    return len(payload).to_bytes(_LENGTH_BYTES, "little") + payload


class Splitter:
    """Cuts a stream of bytes into frames."""

    def __init__(self) -> None:
        self._rest = bytearray()
        self._needed = 0

    @property
    def in_frame(self) -> bool:
        """Whether part of a frame is here and the rest is not."""
        return bool(self._rest)

    def feed(self, data: bytes, link: Link) -> None:
        """Gives the link each payload that is complete with ``data``.

        Raises:
            FrameError: a frame announces more than the link's limit at that moment.
        """
        if self._rest:
            self._rest += data
            if len(self._rest) < self._needed:
                return
            data, self._rest = bytes(self._rest), bytearray()
        view, start = memoryview(data), 0
        self._needed = _LENGTH_BYTES
        while len(data) - start >= _LENGTH_BYTES:
            body = start + _LENGTH_BYTES
            length = int.from_bytes(view[start:body], "little")
            link.check_length(length)
            if len(data) - body < length:
                self._needed += length
                break
            start = body + length
            link.on_frame(view[body:start])
        if start < len(data):
            self._rest += view[start:]


class UnixPipe:
    """The frames of one link on one connected socket."""

    def __init__(
        self, connection: socket.socket, selector: Selector, link: Link, outbox: Outbox
    ) -> None:
        connection.setblocking(False)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SOCKET_BUFFER_BYTES)
        self._socket = connection
        self._selector = selector
        self._link = link
        self._outbox = outbox
        self._splitter = Splitter()
        self._closed = False
        # The tail of the frame that the socket has not taken yet.
        self._unsent = memoryview(b"")
        selector.register(connection, selectors.EVENT_READ, self._on_ready)

    def send(self, messages: Sequence[WireMessage]) -> None:
        """Sends one frame at once if nothing waits, which is the rule."""
        payload = None if self._unsent else self._outbox.pass_by(messages)
        if payload is None:
            self._outbox.put(messages)
            self.flush()
        else:
            self._write(payload)

    def flush(self) -> None:
        """Sends until the outbox is empty or the socket is full."""
        while not self._unsent and (payload := self._outbox.take()) is not None:
            self._write(payload)

    def close(self) -> None:
        """Closes the socket."""
        if not self._closed:
            self._closed = True
            self._selector.unregister(self._socket)
            self._socket.close()

    def _on_ready(self, events: int) -> None:
        # Another link's callback of the same wake-up may have closed this one.
        if events & selectors.EVENT_WRITE and not self._closed:
            self._write_rest()
        if events & selectors.EVENT_READ and not self._closed:
            self._receive()

    def _write(self, payload: bytes) -> None:
        frame = frame_of(payload)
        num_sent = self._try_send(frame)
        if num_sent < len(frame):
            self._unsent = memoryview(frame)[num_sent:]
            writing = selectors.EVENT_READ | selectors.EVENT_WRITE
            self._selector.modify(self._socket, writing, self._on_ready)

    def _write_rest(self) -> None:
        self._unsent = self._unsent[self._try_send(self._unsent) :]
        if not self._unsent and not self._closed:
            self._selector.modify(self._socket, selectors.EVENT_READ, self._on_ready)
            self.flush()

    def _try_send(self, data: bytes | memoryview) -> int:
        """How many bytes need not be sent any more: taken by the socket, or lost with it."""
        try:
            return self._socket.send(data)
        except BlockingIOError:
            return 0
        except OSError as error:
            self._link.on_end(LinkError(f"the peer closed the link ({error.strerror})"))
            return len(data)

    def _receive(self) -> None:
        try:
            data = self._socket.recv(_READ_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            self._link.on_end(LinkError(f"the peer closed the link ({error.strerror})"))
            return
        if not data:
            inside = " inside a frame" if self._splitter.in_frame else ""
            self._link.on_end(LinkError(f"the peer closed the link{inside}"))
            return
        try:
            self._splitter.feed(data, self._link)
        except FrameError as error:
            self._link.fail(error)


class UnixListener:
    """A listening socket in a directory that only this user can enter."""

    def __init__(self, selector: Selector, accept: Callable[[socket.socket], None]) -> None:
        self._directory = _private_directory()
        self.path = os.path.join(self._directory, "s")
        self._selector = selector
        self._accept = accept
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.setblocking(False)
        self._socket.bind(self.path)
        self._socket.listen(_BACKLOG)
        selector.register(self._socket, selectors.EVENT_READ, self._on_ready)

    def close(self) -> None:
        """Stops listening and removes the directory."""
        self._selector.unregister(self._socket)
        self._socket.close()
        shutil.rmtree(self._directory)

    def _on_ready(self, _: int) -> None:
        # Nobody there any more: the dialler gave up in between.
        with contextlib.suppress(BlockingIOError, ConnectionAbortedError):
            connection, _address = self._socket.accept()
            self._accept(connection)


def dial_unix(path: str) -> socket.socket:
    """A connected socket, at once. ``LinkError``: nobody listens there."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.setblocking(False)
    try:
        connection.connect(path)
    except OSError as error:
        connection.close()
        raise LinkError(f"cannot connect to {path} ({error.strerror})") from None
    return connection


def _private_directory() -> str:
    # mkdtemp makes it 0700. Temporary directories can be too deep for a socket's path.
    directory = tempfile.mkdtemp(prefix="specrouter-")
    if len(os.fsencode(directory)) > _MAX_PATH_BYTES - len("/s"):
        os.rmdir(directory)
        directory = tempfile.mkdtemp(prefix="specrouter-", dir="/tmp")
    return directory
