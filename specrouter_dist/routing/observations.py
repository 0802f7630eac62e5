"""What a worker has measured since it was last asked. Sums only, so that they add up."""

from dataclasses import dataclass, field
from typing import NamedTuple


class ForwardKey(NamedTuple):
    """A kind of forward whose times are comparable."""

    member: str
    num_rows: int
    num_sessions: int
    num_drafts: int = 0
    """Tokens drawn one after the other behind the first, each in a forward of its own."""
    beside: str | None = None
    """The drafter that was free to draft ahead meanwhile."""


class WaitKey(NamedTuple):
    """A verifier's wait for a block that its drafter began after the verifier's last word."""

    draft: str
    verifier: str
    num_proposals: int


class PairKey(NamedTuple):
    """Two adjacent members under one sampling regime."""

    draft: str
    verifier: str
    greedy: bool


@dataclass(slots=True)
class ForwardTimes:
    """Times of forwards of one kind."""

    count: int = 0
    total_us: float = 0.0

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

    def add_forward(self, key: ForwardKey, elapsed_us: float) -> None:
        """One forward took ``elapsed_us``."""
        self.forwards.setdefault(key, ForwardTimes()).add(elapsed_us)

    def add_wait(self, key: WaitKey, elapsed_us: float) -> None:
        """The block was there after ``elapsed_us``."""
        self.waits.setdefault(key, ForwardTimes()).add(elapsed_us)

    def add_block(self, key: PairKey, num_proposed: int, num_accepted: int) -> None:
        """The verifier accepted ``num_accepted`` of ``num_proposed``."""
        self.pairs.setdefault(key, Survival()).add(num_proposed, num_accepted)
