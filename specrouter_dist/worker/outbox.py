"""The messages of a tick, gathered so that each peer gets one frame."""

from collections import deque
from collections.abc import Callable

from specrouter_dist.errors import LinkError
from specrouter_dist.links.address import Peer
from specrouter_dist.links.control import WireMessage
from specrouter_dist.links.hub import Hub


class Outbox:
    """Gathers messages per receiver; those of members of the same worker never leave it."""

    def __init__(self, hub: Hub, on_lost: Callable[[Peer], None]) -> None:
        self.local: deque[WireMessage] = deque()
        self._hub = hub
        self._on_lost = on_lost
        self._by_peer: dict[Peer, list[WireMessage]] = {}

    def put(self, peer: Peer | None, message: WireMessage) -> None:
        """Queues ``message`` for ``peer``, or for this worker itself if None."""
        if peer is None:
            self.local.append(message)
        else:
            self._by_peer.setdefault(peer, []).append(message)

    def flush(self) -> None:
        """Sends one frame to every peer that something was queued for."""
        while self._by_peer:
            by_peer, self._by_peer = self._by_peer, {}
            for peer, messages in by_peer.items():
                try:
                    self._hub.send(peer, messages)
                except LinkError:
                    self._on_lost(peer)
