"""The two ends of an edge, as the stage at that end sees it (DESIGN: section 3)."""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field

from specrouter_dist.config import EdgeKnobs
from specrouter_dist.speculation.messages import (
    TOKEN_TYPECODE,
    EdgeId,
    Proposals,
    TokenArray,
    Truth,
)
from specrouter_dist.speculation.own_text import OwnText
from specrouter_dist.speculation.tokens import TokenBuffer, common_prefix, extend_hash

_MISSED_DEADLINES_TO_GIVE_UP = 2
"""After so many in a row the stage does not wait again until proposals come."""


class ProposalQueue:
    """Proposed tokens that extend the stage's own stream (invariant 3)."""

    __slots__ = ("_hashes", "_version", "tokens")

    def __init__(self) -> None:
        self.tokens: TokenArray = array(TOKEN_TYPECODE)
        self._hashes: array[int] = array("Q")
        self._version = 0

    def __len__(self) -> int:
        return len(self.tokens)

    def clear(self) -> None:
        """Forgets all proposals."""
        self.tokens = array(TOKEN_TYPECODE)
        self._hashes = array("Q")

    def consume(self, appended: Sequence[int]) -> None:
        """The own stream grew by ``appended``: what follows equal tokens stays, else nothing."""
        num_equal = common_prefix(self.tokens, appended)
        if num_equal < len(appended):
            self.clear()
        else:
            del self.tokens[:num_equal]
            del self._hashes[:num_equal]

    def offer(self, proposals: Proposals, own: TokenBuffer, limit: int) -> None:
        """Queues what fits: content decides, not counters.

        A late or doubled frame either still fits or is dropped. Where a frame contradicts the
        queue, the one whose sender had seen the newer Truth stands.
        """
        queue_end = len(own) + len(self)
        start = proposals.start
        if start > queue_end or self._hash_at(start, own) != proposals.prefix_hash:
            return
        present = own.slice(start, len(own)) + self.tokens[max(0, start - len(own)) :]
        num_equal = common_prefix(present, proposals.tokens)
        split = start + num_equal
        if num_equal == len(proposals.tokens) or split < len(own):
            return
        if split < queue_end:
            if proposals.version_seen <= self._version:
                return
            del self.tokens[split - len(own) :]
            del self._hashes[split - len(own) :]
        # An empty queue has no version: what fits then, however stale, gives way to newer frames.
        self._version = max(self._version if self.tokens else 0, proposals.version_seen)
        self._append(proposals.tokens[num_equal : max(num_equal, limit - start)], own)

    def _hash_at(self, position: int, own: TokenBuffer) -> int:
        if position <= len(own):
            return own.hash_at(position)
        return self._hashes[position - len(own) - 1]

    def _append(self, tokens: TokenArray, own: TokenBuffer) -> None:
        prefix_hash = self._hash_at(len(own) + len(self), own)
        for token in tokens:
            prefix_hash = extend_hash(prefix_hash, token)
            self._hashes.append(prefix_hash)
        self.tokens.extend(tokens)


@dataclass(slots=True)
class UpstreamEdge:
    """What a stage knows of the stage that drafts for it."""

    edge: EdgeId
    knobs: EdgeKnobs
    version: int = 1
    """Of the newest Truth sent; attaching is the first."""
    acked: int = 0
    """Upstream's stream is known to equal ours up to here."""
    floor_version: int = 1
    """First Truth after our stream was last cut: acknowledgements of older ones do not count."""
    limit: int = 0
    """Last granted."""
    truth_due: bool = False
    """Our stream has changed, or upstream may draft further, since the newest Truth."""
    more: bool = True
    overdue: bool = False
    """The deadline of the present wait has passed."""
    missed_deadlines: int = 0
    queue: ProposalQueue = field(default_factory=ProposalQueue)
    own_text: OwnText = field(init=False)

    def __post_init__(self) -> None:
        self.own_text = OwnText(self.knobs.match_tokens)

    def retune(self, knobs: EdgeKnobs, own: TokenBuffer, end: int) -> None:
        """Other knobs from here on. What was granted stays granted; a wider window is told."""
        if knobs.match_tokens != self.knobs.match_tokens:
            self.own_text = OwnText(knobs.match_tokens)
        self.knobs = knobs
        if self._limit_now(own, end) > self.limit:
            self.truth_due = True

    def truth(self, own: TokenBuffer, end: int) -> Truth:
        """Where our stream stands, and how far upstream may draft of what ends at ``end``."""
        base = min(self.acked, len(own))
        self.limit = self._limit_now(own, end)
        return Truth(self.edge, self.version, base, own.slice(base, len(own)), self.limit)

    def _limit_now(self, own: TokenBuffer, end: int) -> int:
        """A window that has shrunk takes nothing back: upstream may be there already."""
        return max(self.limit, min(len(own) + self.knobs.window, end))

    def on_proposals(self, proposals: Proposals, own: TokenBuffer) -> None:
        """Takes the acknowledgement and queues what fits."""
        self.missed_deadlines = 0
        if proposals.version_seen >= self.floor_version:
            self.acked = max(self.acked, min(proposals.ack, len(own)))
        self.queue.offer(proposals, own, self.limit)
        if proposals.version_seen == self.version and not self.truth_due:
            self.more = proposals.more

    def on_own_cut(self, position: int) -> None:
        """Our stream was cut back to ``position``."""
        self.acked = min(self.acked, position)
        self.floor_version = self.version + 1
        self.limit = min(self.limit, position + self.knobs.window)
        self.more = True
        self.queue.clear()
        self.own_text.on_cut(position)

    def on_own_growth(self, appended: Sequence[int]) -> None:
        """Our stream grew by ``appended``."""
        self.truth_due = True
        self.queue.consume(appended)
        if not self.queue.tokens:
            self.more = True

    def own_match(self, own: TokenBuffer, useful_tokens: int) -> TokenArray:
        """What followed when our stream last read like this, as far as it can be used."""
        return self.own_text.continuation(own, min(self.knobs.burst, useful_tokens))

    def patience(self, useful_tokens: int) -> int:
        """Fewest proposals worth waiting for when at most ``useful_tokens`` can be used."""
        if not self.more or self.overdue or self.missed_deadlines >= _MISSED_DEADLINES_TO_GIVE_UP:
            return 0
        return min(self.knobs.patience, useful_tokens)


@dataclass(slots=True)
class DownstreamEdge:
    """What a stage knows of the stage that it drafts for."""

    edge: EdgeId
    version_seen: int
    sent: int = 0
    """Our stream has been proposed up to here."""
    due: bool = False
    """Something is to be said even if no token is new."""
