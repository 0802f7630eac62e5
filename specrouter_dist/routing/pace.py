"""Measurement decides: how long whole rounds of a chain take, against what was predicted.

Forwards, hops and waits are measured each by itself; what they leave out (batches that do not
form, cores that are taken) shows in the time of a round. A chain's predicted times are scaled by
it. Rounds, and not tokens: how many tokens a round yields is agreement's business.

What slows the machine slows all chains, but only the one in use shows it; others would look
better for no other reason than that they were measured in a quieter minute. So the logarithm of
measured over predicted is a sum: what the machine does now to all chains with drafters, and what is
the chain's own, and, where drafts are made ahead for the target, what it does then. A Kalman filter
per load follows all three.
"""

from collections.abc import Iterable
from math import exp, log

import numpy as np

from specrouter_dist.routing.latency import FADED
from specrouter_dist.routing.observations import Pace
from specrouter_dist.routing.state import Manner, PaceState

_MOST = 1.5
"""Largest correction by one observation, in either direction."""
_ROUND_VARIANCE = 0.1
"""Of the logarithm of one round's time."""
_MACHINE_VARIANCE = 0.1
"""Of what the machine does, before anything was observed."""
_MACHINE_STEP = 0.005
"""By which that grows with every observation: other work comes and goes."""
_OWN_VARIANCE = 0.02
"""Of what is a chain's own, before anything was observed of it."""
_OWN_STEP = 0.00002
"""By which that grows with every observation: without it a chain used for long would never be found
to have changed."""

_MACHINE = Manner(())
"""Stands for what all chains share."""


def _parts(manner: Manner) -> tuple[Manner, ...]:
    """What its pace consists of, the widest first. The target alone has no part in what the machine
    does to drafting."""
    own = Manner(manner.chain)
    if len(manner.chain) == 1:
        return (own,)
    return (_MACHINE, own, manner) if manner.is_ahead else (_MACHINE, own)


class _Filter:
    """What is known at one load: a mean and a covariance over the machine and its chains."""

    def __init__(self) -> None:
        self._rows: dict[Manner, int] = {_MACHINE: 0}
        self._mean = np.zeros(1)
        self._covariance = np.full((1, 1), _MACHINE_VARIANCE)
        self.observed: set[Manner] = set()

    def observe(self, manner: Manner, log_ratio: float, num_rounds: int) -> None:
        """Corrects what these rounds depend on."""
        self.observed.update(_parts(manner))
        rows = [self._row(part) for part in _parts(manner)]
        self._covariance[0, 0] += _MACHINE_STEP
        self._covariance[rows[-1], rows[-1]] += _OWN_STEP
        depends = np.zeros(len(self._mean))
        depends[rows] = 1.0
        shared = self._covariance @ depends
        gain = shared / (depends @ shared + _ROUND_VARIANCE / num_rounds)
        self._mean += gain * (log_ratio - depends @ self._mean)
        self._covariance -= np.outer(gain, shared)

    def fade(self, part: Manner, share: float) -> None:
        """So much of what is known of it is forgotten."""
        row = self._rows[part]
        self._mean[row] *= 1 - share
        self._covariance[row, :] *= 1 - share
        self._covariance[:, row] *= 1 - share
        prior = _MACHINE_VARIANCE if part == _MACHINE else _OWN_VARIANCE
        self._covariance[row, row] += prior * (1 - (1 - share) ** 2)

    def put(self, part: Manner, log_ratio: float, variance: float) -> None:
        """Takes what was known of it at another time."""
        row = self._row(part)
        self._mean[row] = log_ratio
        self._covariance[row, :] = self._covariance[:, row] = 0.0
        self._covariance[row, row] = variance

    def log_ratio(self, manner: Manner) -> float:
        """Of what was never observed, what is known of its wider parts."""
        rows = (self._rows.get(part) for part in _parts(manner))
        return float(sum(self._mean[row] for row in rows if row is not None))

    def known(self, part: Manner) -> tuple[float, float]:
        """Its mean and its variance."""
        row = self._rows[part]
        return float(self._mean[row]), float(self._covariance[row, row])

    @property
    def parts(self) -> list[Manner]:
        """All that were observed, behind the machine."""
        return list(self._rows)

    def _row(self, part: Manner) -> int:
        if part not in self._rows:
            self._rows[part] = len(self._rows)
            self._mean = np.append(self._mean, 0.0)
            self._covariance = np.pad(self._covariance, (0, 1))
            self._covariance[-1, -1] = _OWN_VARIANCE
        return self._rows[part]


class PaceTable:
    """Ratios of measured to predicted round times, by manner and load."""

    def __init__(self) -> None:
        self._filters: dict[int, _Filter] = {}
        self._aside: dict[str, tuple[PaceState, ...]] = {}
        """Of chains of members that have become slower, as they were before."""

    def observe(self, manner: Manner, num_sessions: int, predicted_us: float, pace: Pace) -> None:
        """Takes rounds since the last call."""
        measured = pace.total_us / pace.num_rounds / predicted_us
        # What the parts of a round leave out is no multiple of them: they have changed, and are
        # about to be known.
        ratio = min(max(measured, 1 / _MOST), _MOST)
        self._filter(num_sessions).observe(manner, log(ratio), pace.num_rounds)

    def forget(self, members: set[str]) -> None:
        """Of what was not observed since the last call, while others were at their load, what was
        known counts for less. ``members`` have not worked: they are taken to be as they were before
        they became slower. To be called once a second."""
        for member in members:
            self.restore(self._aside.pop(member, ()))
        for known in self._filters.values():
            for part in known.parts if known.observed else ():
                if part not in known.observed:
                    known.fade(part, FADED)
            known.observed.clear()

    def on_change(self, member: str, factor: float) -> None:
        """The member's times have changed by this factor. While they are longer so are its chains'
        rounds, by what the prediction has yet to learn: when it is as fast again, what was known
        before holds again."""
        if factor > 1:
            own = tuple(known for known in self.state() if member in known.manner.chain)
            self._aside.setdefault(member, own)
        elif factor < 1:
            self.restore(self._aside.pop(member, ()))

    def ratio(self, manner: Manner, num_sessions: int) -> float:
        """Measured over predicted."""
        known = self._filters.get(num_sessions)
        return 1.0 if known is None else exp(known.log_ratio(manner))

    def state(self) -> tuple[PaceState, ...]:
        """Everything known, but how estimates depend on each other."""
        return tuple(
            PaceState(part, num_sessions, *known.known(part))
            for num_sessions, known in self._filters.items()
            for part in known.parts
        )

    def restore(self, state: Iterable[PaceState]) -> None:
        """Takes what an earlier table knew in place of what is here of the same."""
        for part, num_sessions, log_ratio, variance in state:
            self._filter(num_sessions).put(part, log_ratio, variance)

    def _filter(self, num_sessions: int) -> _Filter:
        return self._filters.setdefault(num_sessions, _Filter())
