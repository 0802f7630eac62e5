"""All links of one worker, and the place where its engine thread waits."""

import math
import selectors
import socket
import time
from collections.abc import Callable, Sequence
from functools import partial

from specrouter_dist.errors import ConfigError, LinkError
from specrouter_dist.links.address import Address, Event, Peer, Posted
from specrouter_dist.links.control import WireMessage
from specrouter_dist.links.grpc_pipe import Accepted, GrpcListener, dial_grpc
from specrouter_dist.links.hello import MAX_WORKER_NAME_BYTES, MIN_SECRET_BYTES, Credentials
from specrouter_dist.links.link import Link, Pipe
from specrouter_dist.links.outbox import Outbox
from specrouter_dist.links.pair import PairLink
from specrouter_dist.links.peers import PeerTable
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
        grpc_host: str | None = None,
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
            grpc_host: this node's address (IPv6 in brackets) if others shall reach it there.
            vocab_size: token ids of received messages must be below it.
            max_frame_bytes: longest frame sent or accepted.
            max_buffered_bytes: most unsent bytes per link before it is closed.
            handshake_timeout_s: how long a new link may take to prove itself.

        Raises:
            ConfigError: the worker's name or the secret has an unusable length.
            LinkError: ``grpc_host`` is not an address of this node.
        """
        _check_lengths(worker, secret)
        self._own = Peer(worker, incarnation)
        self._credentials = Credentials(self._own, secret)
        self._vocab_size = vocab_size
        self._max_frame_bytes = max_frame_bytes
        self._max_buffered_bytes = max_buffered_bytes
        self._peers = PeerTable(handshake_timeout_s)
        self._selector = selectors.DefaultSelector()
        self._mailbox: Mailbox[Posted | Callable[[], None]] = Mailbox(self._selector, self._deliver)
        self._unix = UnixListener(self._selector, self._accept_unix)
        self._grpc: GrpcListener | None = None
        if grpc_host is not None:
            try:
                self._grpc = self._listen_grpc(grpc_host)
            except LinkError:
                self.close()
                raise
        grpc_address = None if self._grpc is None else self._grpc.address
        self.address = Address(worker, incarnation, node, self._unix.path, grpc_address)

    @staticmethod
    def pair(a: "Hub", b: "Hub") -> None:
        """Links two hubs of one process; messages pass as they are, without copies.

        To be called while neither hub is used by another thread.
        """
        ends = PairLink(a._peers, b._own), PairLink(b._peers, a._own)
        ends[0].join(ends[1], b._mailbox.put)
        ends[1].join(ends[0], a._mailbox.put)
        for hub, end in zip((a, b), ends, strict=True):
            hub._peers.add(end)
            hub._peers.on_up(end)

    def connect(self, address: Address) -> Peer:
        """The peer at ``address``, dialled unless there is a link with it already.

        Never waits. What is sent before ``LinkUp`` waits for it. Another node that cannot be
        reached, like a failed handshake, is a ``LinkDown`` soon.

        Raises:
            LinkError: nobody listens there, or there is no way to get there.
        """
        peer = address.peer
        if peer == self._own:
            raise LinkError("a worker has no link with itself")
        if self._peers.sending(peer) is not None:
            return peer
        if address.node == self.address.node and address.unix is not None:
            self._start(peer, self._outbox(), self._unix_pipe(dial_unix(address.unix)))
        elif address.grpc is not None:
            dial = partial(dial_grpc, address.grpc, self._max_frame_bytes, self._mailbox.put)
            self._start(peer, self._outbox(), dial)
        else:
            raise LinkError(f"{peer.worker} on node {address.node!r} has no gRPC address")
        return peer

    def send(self, peer: Peer, messages: Sequence[WireMessage]) -> None:
        """Sends the messages as one frame, in order, or buffers them; never blocks.

        While the peer does not read, an unsent Truth is replaced by a newer one of its edge, and
        what waited goes in as few frames as possible. A full buffer closes the link. What is sent
        between a link's end and its ``LinkDown`` is lost like what was sent just before.

        Raises:
            LinkError: there is no link with ``peer``.
            FrameError: one message alone is larger than a frame; none of them is sent.
        """
        link = self._peers.sending(peer)
        if link is None:
            if not self._peers.is_ending(peer):
                raise LinkError(f"no link with {peer}")
        elif messages:
            link.send(messages)

    def receive(self, timeout_s: float | None) -> list[Event]:
        """What has happened, as soon as something has; empty after ``timeout_s``.

        Args:
            timeout_s: 0 only looks, None waits for ever.
        """
        until = math.inf if timeout_s is None else time.monotonic() + timeout_s
        peers = self._peers
        while not peers.events:
            wake_at = min(until, peers.deadline())
            wait_s = None if wake_at == math.inf else max(0.0, wake_at - time.monotonic())
            for key, ready in self._selector.select(wait_s):
                key.data(ready)
            if wake_at != math.inf and time.monotonic() >= wake_at:
                peers.expire()
                if wake_at == until:
                    break
        events, peers.events = peers.events, []
        return events

    def post(self, item: object) -> None:
        """Hands an item to the engine thread, as ``Posted``, and wakes it. Thread-safe."""
        self._mailbox.put(Posted(item))

    def close(self) -> None:
        """Closes every link; peers see ``LinkDown``. Idempotent."""
        if self._selector.get_map() is None:
            return
        self._peers.close()
        self._unix.close()
        if self._grpc is not None:
            self._grpc.close()
        self._mailbox.close()
        self._selector.close()

    def _start(
        self, peer: Peer | None, outbox: Outbox, make_pipe: Callable[[Link, Outbox], Pipe]
    ) -> None:
        link = Link(
            self._peers,
            self._credentials,
            outbox,
            listener=peer,
            max_frame_bytes=self._max_frame_bytes,
            vocab_size=self._vocab_size,
        )
        self._peers.add(link)
        link.start(make_pipe)

    def _outbox(self) -> Outbox:
        return Outbox(self._max_frame_bytes, self._max_buffered_bytes)

    def _unix_pipe(self, connection: socket.socket) -> Callable[[Link, Outbox], Pipe]:
        return partial(UnixPipe, connection, self._selector)

    def _accept_unix(self, connection: socket.socket) -> None:
        self._start(None, self._outbox(), self._unix_pipe(connection))

    def _listen_grpc(self, host: str) -> GrpcListener:
        def accept(stream: Accepted) -> None:
            pipe = partial(stream.pipe, self._mailbox.put)
            self._mailbox.put(partial(self._start, None, stream.outbox, pipe))

        return GrpcListener(host, self._max_frame_bytes, self._outbox, accept)

    def _deliver(self, item: Posted | Callable[[], None]) -> None:
        if isinstance(item, Posted):
            self._peers.events.append(item)
        else:
            item()


def _check_lengths(worker: str, secret: bytes) -> None:
    if len(secret) < MIN_SECRET_BYTES:
        raise ConfigError(
            f"secret: at least {MIN_SECRET_BYTES} bytes, got {len(secret)}", field="secret"
        )
    if not 0 < len(worker.encode()) <= MAX_WORKER_NAME_BYTES:
        raise ConfigError(f"worker: 1 to {MAX_WORKER_NAME_BYTES} bytes", field="worker")
