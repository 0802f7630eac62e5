"""Frames over a unix socket, moved by the engine thread itself.

A frame is a little-endian uint32 length and that many bytes, given to the kernel in one call.
"""

import contextlib
import os
import selectors
import shutil
import socket
import tempfile
from collections.abc import Callable

from specrouter_dist.errors import FrameError, LinkError
from specrouter_dist.links.link import Link
from specrouter_dist.links.outbox import Outbox

Selector = selectors.BaseSelector
OnReady = Callable[[int], None]
"""What is registered with the selector as data: called with the events that are ready."""

_LENGTH_BYTES = 4
_READ_BYTES = 256 * 1024
"""Most bytes taken per wake-up, so that one peer does not starve the others."""
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
            if length > link.max_frame_bytes:
                raise FrameError(
                    f"a frame has at most {link.max_frame_bytes} bytes now, got {length}"
                )
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
        # The tail of the frame that the socket has not taken yet.
        self._unsent = memoryview(b"")
        selector.register(connection, selectors.EVENT_READ, self._on_ready)

    def flush(self) -> None:
        """Sends until the outbox is empty or the socket is full."""
        if not self._unsent:
            self._send()

    def close(self) -> None:
        """Closes the socket."""
        if self._socket.fileno() != -1:
            self._selector.unregister(self._socket)
            self._socket.close()

    def _on_ready(self, events: int) -> None:
        # Another link's callback of the same wake-up may have closed this one.
        if events & selectors.EVENT_WRITE and self._socket.fileno() != -1:
            self._send()
        if events & selectors.EVENT_READ and self._socket.fileno() != -1:
            self._receive()

    def _send(self) -> None:
        waited = bool(self._unsent)
        while True:
            if not self._unsent:
                payload = self._outbox.take()
                if payload is None:
                    break
                self._unsent = memoryview(frame_of(payload))
            try:
                num_sent = self._socket.send(self._unsent)
            except BlockingIOError:
                break
            except OSError as error:
                self._link.on_end(LinkError(f"the peer closed the link ({error.strerror})"))
                return
            self._unsent = self._unsent[num_sent:]
        if waited != bool(self._unsent):
            writing = selectors.EVENT_WRITE if self._unsent else 0
            self._selector.modify(self._socket, selectors.EVENT_READ | writing, self._on_ready)

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
