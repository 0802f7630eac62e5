"""Which links there are with whom, and what has happened on them."""

import math
import time

from specrouter_dist.errors import FrameError, LinkError
from specrouter_dist.links.address import DialRefused, Event, LinkDown, LinkUp, Peer, Received
from specrouter_dist.links.control import WireMessage
from specrouter_dist.links.link import AnyLink


class PeerTable:
    """The links of a hub by peer. Links report here; engine thread only.

    Two workers that dial each other at the same time have two links: each side goes on sending on
    the one it first had, so that its frames stay in order.
    """

    def __init__(self, handshake_timeout_s: float) -> None:
        self.events: list[Event] = []
        """What nobody has been told yet."""
        self._handshake_timeout_s = handshake_timeout_s
        # The link on which this side sends to a peer, and every link with it.
        self._sending: dict[Peer, AnyLink] = {}
        self._links: dict[Peer, list[AnyLink]] = {}
        # Links that have not proved themselves yet, and until when they may.
        self._strangers: dict[AnyLink, float] = {}

    def sending(self, peer: Peer) -> AnyLink | None:
        """The link to send on."""
        return self._sending.get(peer)

    def add(self, link: AnyLink) -> None:
        """A new link: one that was dialled counts at once, an accepted one when it is up."""
        self._strangers[link] = time.monotonic() + self._handshake_timeout_s
        if link.peer is not None:
            self._keep(link, link.peer)

    def is_ending(self, peer: Peer) -> bool:
        """Whether a ``LinkDown`` of the peer waits to be told."""
        return any(isinstance(event, LinkDown) and event.peer == peer for event in self.events)

    def deadline(self) -> float:
        """When the time of a link that has not proved itself is up; infinite without one."""
        return min(self._strangers.values()) if self._strangers else math.inf

    def expire(self) -> None:
        """Closes the links that took too long to prove themselves."""
        now = time.monotonic()
        for link in [link for link, deadline in self._strangers.items() if deadline <= now]:
            link.fail(FrameError(f"no hello within {self._handshake_timeout_s} s"))

    def close(self) -> None:
        """Closes every link, without a report."""
        for link in {*self._strangers, *(link for links in self._links.values() for link in links)}:
            link.close()

    def on_up(self, link: AnyLink) -> None:
        """The link's peer has proved itself."""
        peer = link.peer
        assert peer is not None
        del self._strangers[link]
        if not link.dialled:
            if any(not other.dialled for other in self._links.get(peer, ())):
                # It dials again only after it has given the old link up.
                self._drop(peer, LinkError("the peer has dialled again"))
            self._keep(link, peer)
        if not any(other.up for other in self._links[peer] if other is not link):
            self.events.append(LinkUp(peer))

    def on_messages(self, link: AnyLink, messages: list[WireMessage]) -> None:
        """A frame has arrived."""
        assert link.peer is not None
        self.events.append(Received(link.peer, messages))

    def on_down(self, link: AnyLink, error: LinkError) -> None:
        """The link has closed itself."""
        self._strangers.pop(link, None)
        if link.peer is not None and link in self._links.get(link.peer, ()):
            self._drop(link.peer, error)
        else:
            self.events.append(DialRefused(error))

    def _keep(self, link: AnyLink, peer: Peer) -> None:
        self._links.setdefault(peer, []).append(link)
        self._sending.setdefault(peer, link)

    def _drop(self, peer: Peer, error: LinkError) -> None:
        self._sending.pop(peer)
        for link in self._links.pop(peer):
            self._strangers.pop(link, None)
            link.close()
        self.events.append(LinkDown(peer, error))
