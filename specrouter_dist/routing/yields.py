"""Measurement decides: how many tokens a round of a chain yields, against what was predicted.

What is known of pairs says what a block of proposals comes to. How blocks come about (how far a
drafter got ahead, how its runs of accepted tokens cluster) is a formula's business, and a chain's
own. So its predicted tokens are scaled by what was measured of it: sums of tokens and not a mean of
ratios, since hard texts have more rounds.
"""

from collections.abc import Container, Iterable
from dataclasses import dataclass

from specrouter_dist.routing.latency import FADED
from specrouter_dist.routing.observations import Pace
from specrouter_dist.routing.state import Manner, YieldState
from specrouter_dist.routing.traffic import Traffic

_MEMORY_TOKENS = 8000.0
"""Weight of the past: some hundred requests, which differ more from each other than rounds do."""
_PRIOR_TOKENS = 400.0
"""What is known of the wider kind of requests counts as so many."""
_MOST = 1.5
"""Largest correction, in either direction."""


@dataclass(slots=True)
class _Sums:
    """Decayed, over rounds."""

    predicted: float = 0.0
    measured: float = 0.0

    def add(self, predicted: float, measured: float) -> None:
        keep = _MEMORY_TOKENS / (_MEMORY_TOKENS + predicted)
        self.predicted = self.predicted * keep + predicted
        self.measured = self.measured * keep + measured


class YieldTable:
    """Ratios of measured to predicted tokens per round, by kind of request and manner."""

    def __init__(self) -> None:
        self._sums: dict[tuple[Traffic, Manner], _Sums] = {}
        self._observed: set[Manner] = set()

    def observe(
        self, traffic: Traffic, manner: Manner, predicted_tokens: float, pace: Pace
    ) -> None:
        """Takes rounds of which ``predicted_tokens`` each were expected."""
        if len(manner.chain) == 1:
            return
        self._observed.add(manner)
        for kind in traffic.lineage():
            sums = self._sums.setdefault((kind, manner), _Sums())
            sums.add(predicted_tokens * pace.num_rounds, pace.num_tokens)

    def ratio(self, traffic: Traffic, manner: Manner) -> float:
        """Measured over predicted; 1 for what was never used."""
        found = 1.0
        for kind in reversed(tuple(traffic.lineage())):
            if (sums := self._sums.get((kind, manner))) is not None:
                found = (_PRIOR_TOKENS * found + sums.measured) / (_PRIOR_TOKENS + sums.predicted)
        return min(max(found, 1 / _MOST), _MOST)

    def forget(self) -> None:
        """Of manners that were not used since the last call, while others were, what is known
        counts for less: a choice once disqualified must be tried again. Once a second."""
        for (_, manner), sums in self._sums.items() if self._observed else ():
            if manner not in self._observed:
                sums.predicted *= 1 - FADED
                sums.measured *= 1 - FADED
        self._observed.clear()

    def keep(self, kinds: Container[Traffic]) -> None:
        """Forgets what was measured in other tasks."""
        self._sums = {
            (kind, manner): sums
            for (kind, manner), sums in self._sums.items()
            if not kind.task or kind in kinds
        }

    def state(self) -> tuple[YieldState, ...]:
        """Everything known."""
        return tuple(
            YieldState(*key, sums.predicted, sums.measured) for key, sums in self._sums.items()
        )

    def restore(self, state: Iterable[YieldState]) -> None:
        """Takes what an earlier table knew in place of what is here of the same."""
        for traffic, manner, predicted, measured in state:
            self._sums[traffic, manner] = _Sums(predicted, measured)
