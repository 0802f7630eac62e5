"""The messages of a tick, gathered so that each peer gets one frame."""

from collections import deque
from collections.abc import Callable

from specrouter_dist.errors import LinkError
from specrouter_dist.links.address import Peer
from specrouter_dist.links.control import Failed, Output, WireMessage
from specrouter_dist.links.hub import Hub


class Outbox:
    """Gathers messages per receiver; those of members of the same worker never leave it.

    What goes to stages goes first: somebody waits for it, and a client that wakes up sooner would
    take the core on which the drafter is to work.
    """

    def __init__(self, hub: Hub, on_lost: Callable[[Peer], None]) -> None:
        self.local: deque[WireMessage] = deque()
        self._hub = hub
        self._on_lost = on_lost
        self._to_stages: dict[Peer, list[WireMessage]] = {}
        self._to_clients: dict[Peer, list[WireMessage]] = {}

    def put(self, peer: Peer | None, message: WireMessage) -> None:
        """Queues ``message`` for ``peer``, or for this worker itself if None."""
        if peer is None:
            self.local.append(message)
        elif isinstance(message, Output | Failed):
            self._to_clients.setdefault(peer, []).append(message)
        else:
            self._to_stages.setdefault(peer, []).append(message)

    def flush(self) -> None:
        """Sends one frame to every peer that something was queued for."""
        while self._to_stages or self._to_clients:
            to_stages, self._to_stages = self._to_stages, {}
            to_clients, self._to_clients = self._to_clients, {}
            for peer, messages in (*to_stages.items(), *to_clients.items()):
                try:
                    self._hub.send(peer, messages)
                except LinkError:
                    self._on_lost(peer)
