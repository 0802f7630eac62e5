"""What was decided and why, and what came of it: the newest of each."""

from collections import deque
from dataclasses import dataclass

from specrouter_dist.routing.agreement import Curve
from specrouter_dist.routing.evidence import Grounds
from specrouter_dist.routing.observations import Pace, PaceKey, PairKey, Survival
from specrouter_dist.routing.planner import Candidate
from specrouter_dist.routing.traffic import Traffic

_KEPT_DECISIONS = 64
_KEPT_OUTCOMES = 1024


@dataclass(frozen=True, slots=True)
class Decision:
    """A new plan for one kind of request at one load."""

    at_s: float
    traffic: Traffic
    num_sessions: int
    number: int
    before: tuple[str, ...]
    """The chain that it replaces."""
    chosen: Candidate
    candidates: tuple[Candidate, ...]
    """The best ones, best first."""
    grounds: tuple[Grounds, ...]
    """Of the pairs in the candidates, as they stood then."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """A prediction and what was measured afterwards, in the same unit."""

    at_s: float
    of: str
    """A chain or a pair, members joined by arrows."""
    traffic: Traffic
    num_sessions: int
    predicted: float
    measured: float
    weight: int
    """Rounds, or blocks, behind the measurement."""

    @property
    def error(self) -> float:
        """As a share of what was measured."""
        return abs(self.predicted - self.measured) / self.measured


class Journal:
    """The newest decisions and outcomes, the newest last."""

    def __init__(self) -> None:
        self.decisions: deque[Decision] = deque(maxlen=_KEPT_DECISIONS)
        self.paces: deque[Outcome] = deque(maxlen=_KEPT_OUTCOMES)
        """Microseconds per token of chains."""
        self.agreements: deque[Outcome] = deque(maxlen=_KEPT_OUTCOMES)
        """Tokens per round of pairs."""
        self.similarities: deque[Outcome] = deque(maxlen=_KEPT_OUTCOMES)
        """The same as far as similarity alone had predicted it, also of replayed rounds."""

    def note_pace(self, key: PaceKey, predicted_us: float, pace: Pace, at_s: float) -> None:
        """Keeps a chain's time per token, if there were any."""
        if pace.num_tokens:
            name, measured_us = " -> ".join(key.plan.chain), pace.total_us / pace.num_tokens
            rest = (predicted_us, measured_us, pace.num_rounds)
            self.paces.append(Outcome(at_s, name, key.traffic, key.num_sessions, *rest))


def note_blocks(
    kept: deque[Outcome], pair: PairKey, curve: Curve, survival: Survival, at_s: float
) -> None:
    """Keeps a pair's tokens per round, by ``curve`` and in truth, if anything was drafted."""
    num_drafted = survival.num_blocks - survival.num_empty
    if num_drafted:
        predicted = 1 + curve.accepted_of(survival) / num_drafted
        measured = 1 + sum(survival.accepted) / num_drafted
        name = f"{pair.draft} -> {pair.verifier}"
        kept.append(Outcome(at_s, name, pair.traffic, 1, predicted, measured, num_drafted))
