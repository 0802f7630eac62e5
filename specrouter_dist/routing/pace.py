"""Measurement decides: how long whole rounds of a chain take, against what was predicted.

Forwards, hops and waits are measured each by itself; what they leave out (batches that do not
form, cores that are taken) shows in the time of a round. A chain's predicted times are scaled by
it. Rounds, and not tokens: how many tokens a round yields is agreement's business.

What slows the machine slows all chains, but only the one in use shows it; others would look
better for no other reason than that they were measured in a quieter minute. So the logarithm of
measured over predicted is a sum: what the machine does now to all chains with drafters, and what is
the chain's own. Both are followed by a scalar Kalman filter each, which share every error by how
uncertain they are: a chain in use for long knows itself, so the machine takes the blame.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from math import exp, log

from specrouter_dist.routing.latency import FADED, FORGOTTEN
from specrouter_dist.routing.observations import Pace
from specrouter_dist.routing.state import PaceState

_MOST = 1.5
"""Largest correction by one observation, in either direction."""
_ROUND_VARIANCE = 0.1
"""Of the logarithm of one round's time."""
_MACHINE_VARIANCE = 0.04
"""Of what the machine does, before anything was observed."""
_MACHINE_STEP = 0.005
"""By which that grows with every observation: other work comes and goes."""
_OWN_VARIANCE = 0.04
"""Of what is a chain's own, before anything was observed of it."""
_OWN_STEP = 0.0001
"""By which that grows with every observation: texts and contexts change."""

_Key = tuple[tuple[str, ...], int]


@dataclass(slots=True)
class _Estimate:
    """Of a logarithm."""

    value: float = 0.0
    variance: float = 0.0

    def correct(self, error: float, gain: float) -> None:
        self.value += gain * error
        self.variance *= 1 - gain

    def fade(self, share: float, variance: float) -> None:
        """So much of what is known is forgotten; ``variance``: when nothing is."""
        self.value *= 1 - share
        self.variance += (variance - self.variance) * share


class PaceTable:
    """Ratios of measured to predicted round times, by chain and load."""

    def __init__(self) -> None:
        self._machine: dict[int, _Estimate] = {}
        self._own: dict[_Key, _Estimate] = {}
        self._aside: dict[str, dict[_Key, _Estimate]] = {}
        """Of chains of members that have become slower, as they were before."""
        self._observed: set[_Key] = set()
        """Since :meth:`forget` was last called."""

    def observe(
        self, chain: tuple[str, ...], num_sessions: int, predicted_us: float, pace: Pace
    ) -> None:
        """Takes rounds since the last call."""
        self._observed.add((chain, num_sessions))
        measured = pace.total_us / pace.num_rounds / predicted_us
        # What the parts of a round leave out is no multiple of them: they have changed, and are
        # about to be known.
        ratio = min(max(measured, 1 / _MOST), _MOST)
        own = self._own.setdefault((chain, num_sessions), _Estimate(variance=_OWN_VARIANCE))
        machine = _Estimate()
        if len(chain) > 1:
            machine = self._machine.setdefault(num_sessions, _Estimate(variance=_MACHINE_VARIANCE))
            machine.variance += _MACHINE_STEP
        own.variance += _OWN_STEP
        error = log(ratio) - machine.value - own.value
        total = machine.variance + own.variance + _ROUND_VARIANCE / pace.num_rounds
        machine.correct(error, machine.variance / total)
        own.correct(error, own.variance / total)

    def forget(self, members: set[str]) -> None:
        """Of chains not observed since the last call, while others were at their load, what was
        observed counts for less; for much less with one of ``members``, of whom nothing is known
        any more. To be called once a second."""
        loads = {num_sessions for _, num_sessions in self._observed}
        for (chain, num_sessions), own in self._own.items():
            if num_sessions in loads and (chain, num_sessions) not in self._observed:
                share = FADED if members.isdisjoint(chain) else FORGOTTEN
                own.fade(share, _OWN_VARIANCE)
        self._observed.clear()

    def on_change(self, member: str, factor: float) -> None:
        """The member's times have changed by this factor. While they are longer so are its chains'
        rounds, by what the prediction has yet to learn: when it is as fast again, what was known
        before holds again."""
        if factor > 1:
            own = {key: replace(known) for key, known in self._own.items() if member in key[0]}
            self._aside.setdefault(member, own)
        elif factor < 1:
            self._own |= self._aside.pop(member, {})

    def ratio(self, chain: tuple[str, ...], num_sessions: int) -> float:
        """Measured over predicted. Of a chain that was never used, what the machine does to all."""
        known: list[_Estimate | None] = [self._own.get((chain, num_sessions))]
        if len(chain) > 1:
            known.append(self._machine.get(num_sessions))
        return exp(sum(estimate.value for estimate in known if estimate is not None))

    def state(self) -> tuple[PaceState, ...]:
        """Everything known."""
        machine = {((), num_sessions): known for num_sessions, known in self._machine.items()}
        return tuple(
            PaceState(*key, known.value, known.variance)
            for key, known in (*machine.items(), *self._own.items())
        )

    def restore(self, state: Iterable[PaceState]) -> None:
        """Takes what an earlier table knew in place of what is here of the same."""
        for chain, num_sessions, log_ratio, variance in state:
            known = _Estimate(log_ratio, variance)
            if chain:
                self._own[chain, num_sessions] = known
            else:
                self._machine[num_sessions] = known
