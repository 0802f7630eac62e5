"""A link between two hubs of one process: the messages themselves change hands."""

from collections.abc import Callable, Sequence
from functools import partial

from specrouter_dist.errors import LinkError
from specrouter_dist.links.address import Peer
from specrouter_dist.links.control import WireMessage
from specrouter_dist.links.link import Owner

MAX_WAITING_FRAMES = 65536
"""Most frames that the other hub may leave unread before it counts as stuck."""


class PairLink:
    """One side's end."""

    up = True
    dialled = True
    """Both ends know whom they are linked with."""

    def __init__(self, owner: Owner, peer: Peer) -> None:
        self.peer = peer
        self._owner = owner
        self._closed = False
        # Each counted by one thread only: frames sent from here, frames read here.
        self._num_sent = 0
        self._num_read = 0

    def join(self, other: "PairLink", wake: Callable[[Callable[[], None]], None]) -> None:
        """``wake`` runs a call on the other end's engine thread."""
        self._other = other
        self._wake = wake

    def send(self, messages: Sequence[WireMessage]) -> None:
        """Hands the messages over."""
        if self._closed:
            return
        if self._num_sent - self._other._num_read >= MAX_WAITING_FRAMES:
            self.fail(LinkError(f"the peer does not read: {MAX_WAITING_FRAMES} frames wait"))
            return
        self._num_sent += 1
        self._wake(partial(self._other._on_messages, list(messages)))

    def fail(self, error: LinkError) -> None:
        """Closes the link and reports why, once."""
        if not self._closed:
            self.close()
            self._owner.on_down(self, error)

    def close(self) -> None:
        """Closes the link without a report on this side."""
        if not self._closed:
            self._closed = True
            self._wake(partial(self._other.fail, LinkError("the peer closed the link")))

    def _on_messages(self, messages: list[WireMessage]) -> None:
        self._num_read += 1
        if not self._closed:
            self._owner.on_messages(self, messages)
