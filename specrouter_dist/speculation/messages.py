"""What the stages of a chain say to each other: two messages (DESIGN: section 3).

Positions are absolute (the prompt included). Tokens are uint32 ids in an ``array('I')``, whose
raw bytes are what travels.
"""

from array import array
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

TOKEN_TYPECODE = "I"
"""``array`` type of token ids: unsigned, 4 bytes."""

TokenArray: TypeAlias = "array[int]"
"""Token ids. An alias, because Python 3.11 cannot subscript ``array`` at run time."""


class EdgeId(NamedTuple):
    """One attachment of an upstream stage to a downstream stage.

    A frame that carries another edge than the one attached is from the past and is dropped.
    """

    session: int
    """64-bit id of the request."""
    attach: int
    """Chosen by the downstream stage, one higher at every attach."""
    incarnation: int
    """64-bit id of the downstream worker's life."""


@dataclass(frozen=True, slots=True)
class Proposals:
    """Downstream: the sender's stream from ``start``, for the receiver to verify."""

    edge: EdgeId
    version_seen: int
    """Newest Truth the sender has applied."""
    ack: int
    """The sender's stream is known to equal the receiver's up to this position."""
    start: int
    """Position of ``tokens[0]``."""
    prefix_hash: int
    """64-bit rolling hash of the sender's stream before ``start``."""
    tokens: TokenArray
    more: bool
    """False: nothing follows until the next Truth (EOS, context end, no lookup match)."""


@dataclass(frozen=True, slots=True)
class Truth:
    """Upstream: the sender's stream from ``base`` to its end. The newest replaces the others."""

    edge: EdgeId
    version: int
    base: int
    """Position of ``tokens[0]``; not after the last acknowledged position."""
    tokens: TokenArray
    limit: int
    """Position up to which the receiver may draft: the only credit there is."""


Message = Proposals | Truth
