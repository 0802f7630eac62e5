"""Measurement decides: how long whole rounds of a chain take, against what was predicted.

Forwards, hops and waits are measured each by itself; what they leave out (batches that do not
form, cores that are taken) shows in the time of a round. A chain's predicted times are scaled by
it. Rounds, and not tokens: how many tokens a round yields is agreement's business.
"""

from collections.abc import Iterable

from specrouter_dist.routing.decayed import DecayedMean
from specrouter_dist.routing.latency import FADED, FORGOTTEN
from specrouter_dist.routing.observations import Pace
from specrouter_dist.routing.state import PaceState

_MOST = 1.5
"""Largest correction, in either direction."""

_USUAL_ROUNDS = 10.0
"""What is usual counts as so many rounds of the chain itself."""

_Key = tuple[tuple[str, ...], int]


class PaceTable:
    """Decayed ratios of measured to predicted round times, by chain and load."""

    def __init__(self) -> None:
        self._ratios: dict[_Key, DecayedMean] = {}
        self._observed: set[_Key] = set()
        """Since :meth:`forget` was last called."""

    def observe(
        self, chain: tuple[str, ...], num_sessions: int, predicted_us: float, pace: Pace
    ) -> None:
        """Takes rounds since the last call."""
        self._observed.add((chain, num_sessions))
        ratio = self._ratios.setdefault((chain, num_sessions), DecayedMean(1.0))
        measured = pace.total_us / pace.num_rounds / predicted_us
        # What the parts of a round leave out is no multiple of them: they have changed, and are
        # about to be known.
        ratio.observe(min(max(measured, 1 / _MOST), _MOST), pace.num_rounds)

    def forget(self, members: set[str]) -> None:
        """Of chains not observed since the last call, while others were at their load, what was
        observed counts for less; for much less with one of ``members``, of whom nothing is known
        any more. To be called once a second."""
        loads = {num_sessions for _, num_sessions in self._observed}
        for (chain, num_sessions), ratio in self._ratios.items():
            if num_sessions in loads and (chain, num_sessions) not in self._observed:
                ratio.drift(FADED if members.isdisjoint(chain) else FORGOTTEN)
        self._observed.clear()

    def start_over(self, member: str) -> None:
        """The member has become faster or slower: what its chains were like says nothing."""
        for key in [key for key in self._ratios if member in key[0]]:
            del self._ratios[key]

    def ratio(self, chain: tuple[str, ...], num_sessions: int) -> float:
        """Measured over predicted.

        Where little was measured, what is measured of other chains at that load: otherwise those
        never tried would look better than all that were, and the planner would try them in turn.
        """
        own = self._ratios.get((chain, num_sessions))
        if len(chain) == 1:
            return 1.0 if own is None else own.value
        usual = self._usual(num_sessions)
        if own is None:
            return usual
        share = own.level.weight / (own.level.weight + _USUAL_ROUNDS)
        return share * own.value + (1 - share) * usual

    def _usual(self, num_sessions: int) -> float:
        """Of the chains with drafters."""
        levels = [
            ratio.level
            for (chain, at), ratio in self._ratios.items()
            if at == num_sessions and len(chain) > 1
        ]
        total = sum(level.weight for level in levels)
        return sum(level.value * level.weight for level in levels) / total if total else 1.0

    def state(self) -> tuple[PaceState, ...]:
        """All ratios."""
        return tuple(PaceState(*key, ratio.level) for key, ratio in self._ratios.items())

    def restore(self, state: Iterable[PaceState]) -> None:
        """Takes the ratios of an earlier table in place of what is here of the same."""
        for chain, num_sessions, ratio in state:
            self._ratios[chain, num_sessions] = DecayedMean(1.0, ratio)
