"""All links of one worker, and the place where its engine thread waits."""

import selectors
import socket
import time
from collections.abc import Callable, Sequence

from specrouter_dist.errors import ConfigError, FrameError, LinkError
from specrouter_dist.links.address import (
    Address,
    DialRefused,
    Event,
    LinkDown,
    LinkUp,
    Peer,
    Posted,
    Received,
)
from specrouter_dist.links.control import WireMessage
from specrouter_dist.links.hello import MAX_WORKER_NAME_BYTES, MIN_SECRET_BYTES, Credentials
from specrouter_dist.links.link import Link, Pipe
from specrouter_dist.links.outbox import Outbox
from specrouter_dist.links.unix import UnixListener, UnixPipe, dial_unix
from specrouter_dist.links.wakeup import Mailbox

MAX_FRAME_BYTES = 4 * 1024 * 1024
"""A prompt of a million tokens."""
MAX_BUFFERED_BYTES = 16 * 1024 * 1024
"""Most unsent bytes per link before its peer counts as stuck."""
HANDSHAKE_TIMEOUT_S = 5.0


class Hub:
    """The links of one worker. One thread calls it, the engine's; only ``post`` is for others.

    A link is duplex, whoever dialled. When any link with a peer breaks, all with it are closed
    and one ``LinkDown`` says so.
    """

    def __init__(
        self,
        worker: str,
        incarnation: int,
        node: str,
        secret: bytes,
        *,
        vocab_size: int | None = None,
        max_frame_bytes: int = MAX_FRAME_BYTES,
        max_buffered_bytes: int = MAX_BUFFERED_BYTES,
        handshake_timeout_s: float = HANDSHAKE_TIMEOUT_S,
    ) -> None:
        """Listens at once.

        Args:
            worker: name of the worker, unique in the cluster.
            incarnation: 64-bit id of this life of it.
            node: workers of the same node share a file system.
            secret: the cluster's, at least 16 bytes.
            vocab_size: token ids of received messages must be below it.
            max_frame_bytes: longest frame sent or accepted.
            max_buffered_bytes: most unsent bytes per link before it is closed.
            handshake_timeout_s: how long a new link may take to prove itself.

        Raises:
            ConfigError: the worker's name or the secret has an unusable length.
        """
        if len(secret) < MIN_SECRET_BYTES:
            raise ConfigError(
                f"secret: at least {MIN_SECRET_BYTES} bytes, got {len(secret)}", field="secret"
            )
        if not 0 < len(worker.encode()) <= MAX_WORKER_NAME_BYTES:
            raise ConfigError(f"worker: 1 to {MAX_WORKER_NAME_BYTES} bytes", field="worker")
        self._own = Peer(worker, incarnation)
        self._credentials = Credentials(self._own, secret)
        self._vocab_size = vocab_size
        self._max_frame_bytes = max_frame_bytes
        self._max_buffered_bytes = max_buffered_bytes
        self._handshake_timeout_s = handshake_timeout_s
        self._selector = selectors.DefaultSelector()
        self._mailbox: Mailbox[object] = Mailbox(self._selector)
        self._listener = UnixListener(self._selector, self._accept)
        self._events: list[Event] = []
        # The link on which this side sends to a peer, and every link with it.
        self._sending: dict[Peer, Link] = {}
        self._links: dict[Peer, list[Link]] = {}
        # Links that have not proved themselves yet, and until when they may.
        self._strangers: dict[Link, float] = {}
        self.address = Address(worker, incarnation, node, self._listener.path, None)

    def connect(self, address: Address) -> Peer:
        """The peer at ``address``, dialled unless there is a link with it already.

        What is sent before ``LinkUp`` waits for it. A failed handshake is a ``LinkDown``.

        Raises:
            LinkError: nobody listens there, or there is no way to get there.
        """
        peer = address.peer
        if peer == self._own:
            raise LinkError("a worker has no link with itself")
        if peer in self._sending:
            return peer
        if address.node != self.address.node or address.unix is None:
            raise LinkError(f"no way from node {self.address.node!r} to {address}")
        connection = dial_unix(address.unix)
        link = self._new_link(peer)
        self._sending[peer] = link
        self._links.setdefault(peer, []).append(link)
        link.start(self._unix_pipe(connection))
        return peer

    def send(self, peer: Peer, messages: Sequence[WireMessage]) -> None:
        """Sends the messages as one frame, in order, or buffers them; never blocks.

        While the peer does not read, an unsent Truth is replaced by a newer one of its edge. A
        full buffer closes the link. What is sent between a link's end and its ``LinkDown`` is
        lost like what was sent just before.

        Raises:
            LinkError: there is no link with ``peer``.
            FrameError: one message alone is larger than a frame.
        """
        link = self._sending.get(peer)
        if link is None:
            if any(isinstance(event, LinkDown) and event.peer == peer for event in self._events):
                return
            raise LinkError(f"no link with {peer}")
        if messages:
            link.send(messages)

    def receive(self, timeout_s: float | None) -> list[Event]:
        """What has happened, as soon as something has; empty after ``timeout_s``.

        Args:
            timeout_s: 0 only looks, None waits for ever.
        """
        until = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            self._look(self._wait_s(until))
            if self._events or (until is not None and time.monotonic() >= until):
                events, self._events = self._events, []
                return events

    def post(self, item: object) -> None:
        """Hands an item to the engine thread, as ``Posted``, and wakes it. Thread-safe."""
        self._mailbox.put(item)

    def close(self) -> None:
        """Closes every link; peers see ``LinkDown``. Idempotent."""
        if self._selector.get_map() is None:
            return
        for links in list(self._links.values()):
            for link in list(links):
                link.close()
        for link in list(self._strangers):
            link.close()
        self._listener.close()
        self._mailbox.close()
        self._selector.close()

    # ------------------------------------------------------------------ what links report

    def on_up(self, link: Link) -> None:
        """The link's peer has proved itself."""
        peer = link.peer
        assert peer is not None
        del self._strangers[link]
        links = self._links.setdefault(peer, [])
        if not link.dialled:
            if any(not other.dialled for other in links):
                # It dials again only after it has given the old link up.
                self._drop(peer, LinkError("the peer has dialled again"))
                links = self._links.setdefault(peer, [])
            links.append(link)
            self._sending.setdefault(peer, link)
        if not any(other.up for other in links if other is not link):
            self._events.append(LinkUp(peer))

    def on_messages(self, link: Link, messages: list[WireMessage]) -> None:
        """A frame has arrived."""
        assert link.peer is not None
        self._events.append(Received(link.peer, messages))

    def on_down(self, link: Link, error: LinkError) -> None:
        """The link has closed itself."""
        self._strangers.pop(link, None)
        if link.peer is not None and link in self._links.get(link.peer, ()):
            self._drop(link.peer, error)
        else:
            self._events.append(DialRefused(error))

    # ---------------------------------------------------------------------------- inside

    def _drop(self, peer: Peer, error: LinkError) -> None:
        self._sending.pop(peer, None)
        for link in self._links.pop(peer):
            self._strangers.pop(link, None)
            link.close()
        self._events.append(LinkDown(peer, error))

    def _new_link(self, listener: Peer | None) -> Link:
        link = Link(
            self,
            self._credentials,
            Outbox(self._max_frame_bytes, self._max_buffered_bytes),
            listener=listener,
            max_frame_bytes=self._max_frame_bytes,
            vocab_size=self._vocab_size,
        )
        self._strangers[link] = time.monotonic() + self._handshake_timeout_s
        return link

    def _unix_pipe(self, connection: socket.socket) -> Callable[[Link, Outbox], Pipe]:
        return lambda link, outbox: UnixPipe(connection, self._selector, link, outbox)

    def _accept(self, connection: socket.socket) -> None:
        self._new_link(None).start(self._unix_pipe(connection))

    def _wait_s(self, until: float | None) -> float | None:
        if self._events or self._mailbox:
            return 0.0
        deadlines = [*self._strangers.values(), *(() if until is None else (until,))]
        return max(0.0, min(deadlines) - time.monotonic()) if deadlines else None

    def _look(self, wait_s: float | None) -> None:
        for key, events in self._selector.select(wait_s):
            key.data(events)
        while self._mailbox:
            self._events.append(Posted(self._mailbox.take()))
        if self._strangers:
            self._expire(time.monotonic())

    def _expire(self, now: float) -> None:
        for link, deadline in list(self._strangers.items()):
            if deadline <= now:
                link.fail(FrameError(f"no hello within {self._handshake_timeout_s} s"))
