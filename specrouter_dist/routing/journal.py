"""What was decided and why, and what came of it: bounded, as plain values for people and JSON."""

from collections import deque
from dataclasses import asdict, dataclass

from specrouter_dist.config import Plan
from specrouter_dist.routing.planner import Candidate
from specrouter_dist.routing.traffic import Traffic

_KEPT_DECISIONS = 64
_KEPT_OUTCOMES = 1024
_LISTED_CANDIDATES = 6


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


class Journal:
    """The newest decisions and outcomes."""

    def __init__(self) -> None:
        self.decisions: deque[Decision] = deque(maxlen=_KEPT_DECISIONS)
        self.paces: deque[Outcome] = deque(maxlen=_KEPT_OUTCOMES)
        """Microseconds per token of chains."""
        self.agreements: deque[Outcome] = deque(maxlen=_KEPT_OUTCOMES)
        """Tokens per round of pairs."""

    def decided(
        self,
        at_s: float,
        traffic: Traffic,
        num_sessions: int,
        before: Plan,
        chosen: Candidate,
        number: int,
        candidates: list[Candidate],
    ) -> None:
        """A cell of the plan table has changed."""
        listed = tuple(candidates[:_LISTED_CANDIDATES])
        self.decisions.append(
            Decision(at_s, traffic, num_sessions, number, before.chain, chosen, listed)
        )

    def as_plain(self, now_s: float) -> dict[str, object]:
        """Decisions and outcomes with their age, newest last."""
        return {
            "decisions": [_aged(entry, now_s) for entry in self.decisions],
            "time_per_token_us": [_aged(entry, now_s) for entry in self.paces],
            "tokens_per_round": [_aged(entry, now_s) for entry in self.agreements],
        }


def _aged(entry: Decision | Outcome, now_s: float) -> dict[str, object]:
    plain = asdict(entry)
    plain["traffic"] = entry.traffic._asdict()
    plain["age_s"] = max(0.0, now_s - plain.pop("at_s"))
    return plain
