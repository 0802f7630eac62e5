"""What is known of pairs: blocks that were judged, and what people are told of them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from specrouter_dist.routing.observations import Survival
from specrouter_dist.routing.scores import Likeness
from specrouter_dist.routing.state import MAX_POSITIONS
from specrouter_dist.routing.traffic import Traffic

_MEMORY_BLOCKS = 600.0
"""Weight of the past, in blocks: some dozens of requests, which differ more from each other than
their blocks do."""


class Source(StrEnum):
    """Where blocks come from, the less direct first."""

    REPLAYED = "replayed"
    CHAINED = "chained"


@dataclass(slots=True)
class Evidence:
    """Decayed counts of a pair's blocks."""

    reached: list[float] = field(default_factory=lambda: [0.0] * MAX_POSITIONS)
    accepted: list[float] = field(default_factory=lambda: [0.0] * MAX_POSITIONS)
    num_blocks: float = 0.0
    """Effective number: what is older counts less."""
    num_empty: float = 0.0
    at_s: float = 0.0
    """When the newest came, by the router's clock."""

    def add(self, survival: Survival, now_s: float) -> None:
        """Takes blocks that are newer than all before."""
        self.at_s = now_s
        keep = _MEMORY_BLOCKS / (_MEMORY_BLOCKS + survival.num_blocks)
        self.num_blocks = self.num_blocks * keep + survival.num_blocks
        self.num_empty = self.num_empty * keep + survival.num_empty
        self.reached = _decay_and_add(self.reached, keep, survival.reached)
        self.accepted = _decay_and_add(self.accepted, keep, survival.accepted)

    @property
    def mean(self) -> float | None:
        """Share of the judged proposals that were accepted; None: none was judged."""
        judged = sum(self.reached)
        return sum(self.accepted) / judged if judged else None

    @classmethod
    def expected(cls, agreement: float, num_judged: float) -> "Evidence":
        """As if so many proposals had been judged, in blocks as long as any and all alike."""
        survivals = [agreement**k for k in range(MAX_POSITIONS + 1)]
        num_blocks = num_judged / sum(survivals[:-1])
        counts = [num_blocks * survival for survival in survivals]
        return cls(counts[:-1], counts[1:], num_blocks)

    def backing(self, now_s: float) -> "Backing":
        """For people."""
        return Backing(self.num_blocks, self.mean, max(0.0, now_s - self.at_s))


@dataclass(frozen=True, slots=True)
class Backing:
    """How much one source has to say of a pair."""

    num_blocks: float
    """Effective number."""
    mean: float | None
    """Share of the judged proposals that were accepted; None: none was judged."""
    age_s: float
    """Of the newest block."""


@dataclass(frozen=True, slots=True)
class Grounds:
    """What is known of a pair for a kind of request, and what that rests on."""

    draft: str
    verifier: str
    traffic: Traffic
    """The narrowest kind of which there is evidence; that asked for if there is none."""
    agreement: float
    """Share of the judged proposals that are accepted, all layers taken together."""
    chained: Backing | None
    replayed: Backing | None
    similar: Likeness | None

    @property
    def bias(self) -> float | None:
        """What replays say beyond what verifies say; None: one of the two is silent."""
        chained, replayed = (one.mean if one else None for one in (self.chained, self.replayed))
        return None if replayed is None or chained is None else replayed - chained


def _decay_and_add(past: list[float], keep: float, new: Sequence[int]) -> list[float]:
    padded = (*new[:MAX_POSITIONS], *(0,) * (MAX_POSITIONS - len(new)))
    return [old * keep + more for old, more in zip(past, padded, strict=True)]
