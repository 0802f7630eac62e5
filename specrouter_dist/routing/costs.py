"""What rounds cost in one regime, over the length of the block: the planner's numbers.

Arrays over ``num_proposals = 1..MAX_DRAFT_TOKENS``, made once per decision.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from specrouter_dist.routing.agreement import UNKNOWN, AgreementTable, Curve
from specrouter_dist.routing.latency import LatencyTable
from specrouter_dist.routing.observations import PairKey
from specrouter_dist.routing.traffic import Traffic

Floats = npt.NDArray[np.float64]

MAX_DRAFT_TOKENS = 16
"""Longest block considered."""
LENGTHS = np.arange(1, MAX_DRAFT_TOKENS + 1, dtype=np.float64)
_LOOKUP_US = 30.0
"""Time per block of a member without a model."""


@dataclass(frozen=True, slots=True)
class Regime:
    """What is planned for."""

    traffic: Traffic
    num_sessions: int = 1
    """Requests that run at the same time, batched at every member."""
    scale: float = 1.0
    """The target agrees so many times as often as usual."""


@dataclass(slots=True)
class Costs:
    """Times and agreement as arrays.

    Attributes:
        devices: where each model runs; members of one device do not work at the same time.
    """

    regime: Regime
    target: str
    lookups: frozenset[str]
    devices: Mapping[str, str]
    latency: LatencyTable
    agreement: AgreementTable
    _drafting: dict[str, Floats] = field(default_factory=dict)
    _verifying: dict[tuple[str, str | None], Floats] = field(default_factory=dict)
    _curves: dict[tuple[str, str], Curve] = field(default_factory=dict)

    def is_known(self, member: str) -> bool:
        """Whether the member's times are known."""
        if self.latency.forward_us(member, 1) is None:
            return False
        return member == self.target or self.latency.drafting_us(member, 1) is not None

    def alone_us(self, member: str) -> float:
        """Time per token of a member that decodes by itself."""
        return self._forward_us(member, 1.0)

    def drafting_us(self, drafter: str) -> Floats:
        """Time of a block that the drafter draws by itself, shape [MAX_DRAFT_TOKENS]."""
        found = self._drafting.get(drafter)
        if found is None:
            found = self._drafting[drafter] = self._measure_drafting(drafter)
        return found

    def verifying_us(self, verifier: str, beside: str | None = None) -> Floats:
        """Time of a forward over the block and one more row, shape [MAX_DRAFT_TOKENS].

        ``beside``: while that drafter drafts the next block.
        """
        found = self._verifying.get((verifier, beside))
        if found is None:
            times = [self._forward_us(verifier, length + 1, beside) for length in LENGTHS]
            found = self._verifying[verifier, beside] = np.array(times)
        return found

    def hop_us(self, draft: str, verifier: str) -> float:
        """What a round pays for crossing between the two, there and back."""
        return 0.0 if draft in self.lookups else self.latency.hop_us(draft, verifier)

    def curve(self, draft: str, verifier: str) -> Curve:
        """Agreement of the pair in this regime."""
        found = self._curves.get((draft, verifier))
        if found is None:
            found = self.agreement.curve(PairKey(draft, verifier, self.regime.traffic))
            if verifier == self.target:
                found = found.scaled(self.regime.scale)
            self._curves[draft, verifier] = found
        return found

    def tokens(self, drafts: Sequence[str], verifier: str) -> Floats:
        """Tokens that rounds yield, shape [num_drafts, MAX_DRAFT_TOKENS]."""
        scale = self.regime.scale if verifier == self.target else 1.0
        unknown = UNKNOWN.scaled(scale).tokens[1 : MAX_DRAFT_TOKENS + 1]
        found = np.tile(unknown, (len(drafts), 1))
        for row, draft in enumerate(drafts):
            if self.agreement.knows(draft, verifier):
                found[row] = self.curve(draft, verifier).tokens[1 : MAX_DRAFT_TOKENS + 1]
        return found

    def can_overlap(self, draft: str) -> bool:
        """Whether ``draft`` can draft the next block while the target verifies.

        With several sessions one is drafted while another is verified: nobody drafts ahead.
        """
        return (
            self.regime.num_sessions == 1
            and draft not in self.lookups
            and self.devices[draft] != self.devices[self.target]
        )

    def _measure_drafting(self, drafter: str) -> Floats:
        num_sessions = self.regime.num_sessions
        if drafter in self.lookups:
            return np.full(MAX_DRAFT_TOKENS, _LOOKUP_US * num_sessions)
        times = [self.latency.drafting_us(drafter, int(n), num_sessions) for n in LENGTHS]
        return np.array(times, dtype=np.float64)

    def _forward_us(self, member: str, num_rows: float, beside: str | None = None) -> float:
        time_us = self.latency.forward_us(member, num_rows, self.regime.num_sessions, beside=beside)
        assert time_us is not None, f"the times of {member} are unknown"
        return time_us
