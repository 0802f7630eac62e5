"""Where a worker listens, who a peer is, and what a hub reports."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import NamedTuple

from specrouter_dist.errors import LinkError
from specrouter_dist.links.control import WireMessage


class Peer(NamedTuple):
    """One life of a worker, as the other end of a link."""

    worker: str
    incarnation: int
    """64-bit id, another one after every restart."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a worker's hub listens; its actor publishes it."""

    worker: str
    incarnation: int
    node: str
    """Hubs of the same node meet at ``unix``, others at ``grpc``."""
    unix: str | None
    """Path of a socket."""
    grpc: str | None
    """``host:port``."""

    @property
    def peer(self) -> Peer:
        """Who answers there."""
        return Peer(self.worker, self.incarnation)

    def to_dict(self) -> dict[str, object]:
        """Plain values, for msgpack, JSON or a Ray call."""
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: Mapping[str, object]) -> "Address":
        """What :meth:`to_dict` made. ``LinkError``: it did not."""
        match dict(fields):
            case {
                "worker": str(worker),
                "incarnation": int(incarnation),
                "node": str(node),
                "unix": str() | None as unix,
                "grpc": str() | None as grpc,
                **rest,
            } if not rest:
                return cls(worker, incarnation, node, unix, grpc)
            case _:
                raise LinkError(f"no address of a worker: {sorted(fields)}")


@dataclass(frozen=True, slots=True)
class Received:
    """One frame's messages."""

    peer: Peer
    messages: list[WireMessage]


@dataclass(frozen=True, slots=True)
class LinkUp:
    """The peer has proved that it knows the secret; either side may have dialled."""

    peer: Peer


@dataclass(frozen=True, slots=True)
class LinkDown:
    """The link is gone: what was sent and not yet received is lost. Dial again to go on."""

    peer: Peer
    error: LinkError


@dataclass(frozen=True, slots=True)
class DialRefused:
    """Somebody unknown dialled and was turned away without an answer."""

    error: LinkError


@dataclass(frozen=True, slots=True)
class Posted:
    """What another thread handed over with ``Hub.post``."""

    item: object


Event = Received | LinkUp | LinkDown | DialRefused | Posted
