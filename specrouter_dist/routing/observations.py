"""What a worker has measured since it was last asked. Sums only, so that they add up."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain, pairwise
from math import isfinite, log2
from typing import NamedTuple

from specrouter_dist.config import Plan
from specrouter_dist.routing.similarity import SparseRows
from specrouter_dist.routing.state import MAX_SIZE
from specrouter_dist.routing.traffic import Traffic
from specrouter_dist.speculation.messages import TokenArray

ANY_DRAFTER = "*"
"""In a profile: whichever drafts meanwhile."""
SHORTEST_CONTEXT = 64
"""Contexts below are not told apart from it, in tokens."""


def context_of(starts: Sequence[int]) -> int:
    """The mean context of a batch whose sessions are fed from these positions on, rounded to a
    power of the square root of 2: a request that grows has few kinds of forwards, and at most a
    fifth is rounded off."""
    mean = max(SHORTEST_CONTEXT, sum(starts) / len(starts))
    return round(2 ** (round(2 * log2(mean)) / 2))


class ForwardKey(NamedTuple):
    """A kind of forward whose times are comparable."""

    member: str
    num_rows: int
    num_sessions: int
    num_drafts: int = 0
    """Tokens drawn one after the other behind the first, each in a forward of its own."""
    beside: str | None = None
    """The drafter that was free to draft ahead meanwhile."""
    context_tokens: int = SHORTEST_CONTEXT
    """Mean over the sessions of what they held in their KV caches before."""

    @property
    def is_plausible(self) -> bool:
        """Whether there can be such forwards."""
        sizes = (self.num_rows, self.num_sessions, self.num_drafts + 1, self.context_tokens)
        return all(0 < size <= MAX_SIZE for size in sizes)


class WaitKey(NamedTuple):
    """A verifier's wait for a block that its drafter began after the verifier's last word."""

    draft: str
    verifier: str
    num_proposals: int


class PairKey(NamedTuple):
    """Two adjacent members for one kind of request."""

    draft: str
    verifier: str
    traffic: Traffic


class OutcomeKey(NamedTuple):
    """A drafter that prepares for so many outcomes of a verify."""

    draft: str
    traffic: Traffic
    num_outcomes: int


class PaceKey(NamedTuple):
    """Rounds of the target whose times are comparable."""

    plan: Plan
    traffic: Traffic
    num_sessions: int
    """Running requests, rounded up to one of ``plans.LOADS``."""


@dataclass(slots=True)
class Pace:
    """Rounds of requests, waiting included, and what came of them."""

    num_rounds: int = 0
    num_tokens: int = 0
    total_us: float = 0.0

    @property
    def is_plausible(self) -> bool:
        """Whether clocks can have said so."""
        return self.num_rounds > 0 and isfinite(self.total_us) and self.total_us > 0

    def add(self, num_rounds: int, num_tokens: int, elapsed_us: float) -> None:
        """More rounds."""
        self.num_rounds += num_rounds
        self.num_tokens += num_tokens
        self.total_us += elapsed_us


@dataclass(slots=True)
class OutcomeCounts:
    """How often a drafter's answer was there when its block had been judged. The first entry of
    each pair is of blocks that stood as a whole, the second of rejected ones."""

    num_blocks: list[int] = field(default_factory=lambda: [0, 0])
    num_ready: list[int] = field(default_factory=lambda: [0, 0])
    """Of these, with at least a part of the answer."""
    num_tokens: list[int] = field(default_factory=lambda: [0, 0])
    """Of the answers, that were there."""

    @property
    def is_plausible(self) -> bool:
        """Whether blocks can have come out so."""
        return all(
            0 <= ready <= min(blocks, tokens)
            for blocks, ready, tokens in zip(
                self.num_blocks, self.num_ready, self.num_tokens, strict=True
            )
        )

    def add(self, other: "OutcomeCounts") -> None:
        """More blocks."""
        for own, more in (
            (self.num_blocks, other.num_blocks),
            (self.num_ready, other.num_ready),
            (self.num_tokens, other.num_tokens),
        ):
            own[:] = (a + b for a, b in zip(own, more, strict=True))


@dataclass(frozen=True, slots=True)
class Reading:
    """What one member would have drawn at every position of a finished request's output, had all
    before it been as the target wrote it."""

    request: int
    member: str
    traffic: Traffic
    picks: TokenArray
    prompt: TokenArray
    """Only with the target's own, whose picks are the output; others leave it empty."""


@dataclass(frozen=True, slots=True)
class LawReading:
    """One member's laws at the sampled positions (routing/similarity.py) of a request's output."""

    request: int
    member: str
    traffic: Traffic
    rows: SparseRows


@dataclass(slots=True)
class ForwardTimes:
    """Times of forwards of one kind."""

    count: int = 0
    total_us: float = 0.0

    @property
    def is_plausible(self) -> bool:
        """Whether clocks can have said so."""
        return self.count > 0 and isfinite(self.total_us) and self.total_us > 0

    def add(self, elapsed_us: float) -> None:
        """One more forward."""
        self.count += 1
        self.total_us += elapsed_us


@dataclass(slots=True)
class Survival:
    """Per position of a block: how often it was reached with all before it accepted, and how
    often it was accepted then."""

    reached: list[int] = field(default_factory=list)
    accepted: list[int] = field(default_factory=list)
    num_blocks: int = 0
    num_empty: int = 0
    """Blocks without a proposal: the drafter had nothing to say."""

    @property
    def is_plausible(self) -> bool:
        """Whether blocks can have come out so."""
        if len(self.accepted) != len(self.reached):
            return False
        counts = chain.from_iterable(zip(self.reached, self.accepted, strict=True))
        num_drafted = self.num_blocks - self.num_empty
        falling = [self.num_blocks, num_drafted, *counts, 0]
        return (not num_drafted or bool(self.reached)) and all(
            more >= fewer for more, fewer in pairwise(falling)
        )

    def add(self, num_proposed: int, num_accepted: int) -> None:
        """One block of ``num_proposed``, whose first ``num_accepted`` stood."""
        self.num_blocks += 1
        self.num_empty += num_proposed == 0
        missing = num_proposed - len(self.reached)
        self.reached.extend([0] * missing)
        self.accepted.extend([0] * missing)
        for k in range(min(num_accepted + 1, num_proposed)):
            self.reached[k] += 1
            self.accepted[k] += k < num_accepted


@dataclass(slots=True)
class Observations:
    """Sums over forwards and verified blocks."""

    is_profile: bool = False
    """The forwards were made to be timed, not for a request."""
    forwards: dict[ForwardKey, ForwardTimes] = field(default_factory=dict)
    pairs: dict[PairKey, Survival] = field(default_factory=dict)
    waits: dict[WaitKey, ForwardTimes] = field(default_factory=dict)
    paces: dict[PaceKey, Pace] = field(default_factory=dict)
    readings: list[Reading] = field(default_factory=list)
    laws: list[LawReading] = field(default_factory=list)
    outcomes: dict[OutcomeKey, OutcomeCounts] = field(default_factory=dict)
    is_urgent: bool = False
    """Forwards or waits have become far longer: this, and what comes next, should soon be known."""

    @property
    def has_any(self) -> bool:
        """Whether anything was measured."""
        return bool(self.forwards or self.pairs or self.readings or self.laws or self.outcomes)

    def add_forward(self, key: ForwardKey, elapsed_us: float) -> None:
        """One forward took ``elapsed_us``."""
        self.forwards.setdefault(key, ForwardTimes()).add(elapsed_us)

    def drop_forwards(self, member: str) -> None:
        """What was timed of the member counts no more."""
        self.forwards = {key: of for key, of in self.forwards.items() if key.member != member}

    def add_wait(self, key: WaitKey, elapsed_us: float) -> None:
        """The block was there after ``elapsed_us``."""
        self.waits.setdefault(key, ForwardTimes()).add(elapsed_us)

    def add_pace(self, key: PaceKey, num_rounds: int, num_tokens: int, elapsed_us: float) -> None:
        """A request made these rounds in this time."""
        self.paces.setdefault(key, Pace()).add(num_rounds, num_tokens, elapsed_us)

    def add_block(self, key: PairKey, num_proposed: int, num_accepted: int) -> None:
        """The verifier accepted ``num_accepted`` of ``num_proposed``."""
        self.pairs.setdefault(key, Survival()).add(num_proposed, num_accepted)

    def add_outcome(self, key: OutcomeKey, was_rejected: bool, num_ready: int) -> None:
        """A block was judged when so many tokens of the next were there."""
        counts = self.outcomes.setdefault(key, OutcomeCounts())
        counts.num_blocks[was_rejected] += 1
        counts.num_ready[was_rejected] += num_ready > 0
        counts.num_tokens[was_rejected] += num_ready
