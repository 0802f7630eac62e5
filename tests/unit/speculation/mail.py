"""What the members of a protocol test say to each other."""

from dataclasses import dataclass

from specrouter_dist.config import EdgeKnobs
from specrouter_dist.speculation.messages import EdgeId, Message, TokenArray, Truth


@dataclass(frozen=True)
class Frame:
    """A message in the air."""

    to: int
    message: Message
    stream: TokenArray
    """The sender's whole stream when it was sent, what it proposes included."""


@dataclass(frozen=True)
class Attach:
    truth: Truth
    plan_number: int
    wanted: tuple[int, ...]
    knobs: tuple[EdgeKnobs, ...]
    below: EdgeKnobs
    """Of the edge itself."""


@dataclass(frozen=True)
class Detach:
    edge: EdgeId


@dataclass(frozen=True)
class Replan:
    edge: EdgeId
    plan_number: int
    wanted: tuple[int, ...]
    knobs: tuple[EdgeKnobs, ...]
    below: EdgeKnobs
    """Of the edge itself."""


Control = Attach | Detach | Replan
