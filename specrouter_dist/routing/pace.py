"""Measurement decides: how long whole rounds of a chain take, against what was predicted.

Forwards, hops and waits are measured each by itself; what they leave out (batches that do not
form, cores that are taken) shows in the time of a round. A chain's predicted times are scaled by
it. Rounds, and not tokens: how many tokens a round yields is agreement's business.

What slows the machine slows all chains, but only the one in use shows it; others would look
better for no other reason than that they were measured in a quieter minute. So the logarithm of
measured over predicted is a sum: what the machine does now to all chains with drafters, and what is
the chain's own. A Kalman filter per load follows both.
"""

from collections.abc import Iterable
from math import exp, log

import numpy as np

from specrouter_dist.routing.latency import FADED, FORGOTTEN
from specrouter_dist.routing.observations import Pace
from specrouter_dist.routing.state import PaceState

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

_Chain = tuple[str, ...]
_MACHINE: _Chain = ()
"""Stands for what all chains share."""


class _Filter:
    """What is known at one load: a mean and a covariance over the machine and its chains."""

    def __init__(self) -> None:
        self._rows: dict[_Chain, int] = {_MACHINE: 0}
        self._mean = np.zeros(1)
        self._covariance = np.full((1, 1), _MACHINE_VARIANCE)
        self.observed: set[_Chain] = set()

    def observe(self, chain: _Chain, log_ratio: float, num_rounds: int) -> None:
        """Corrects what the chain's rounds depend on."""
        self.observed.add(chain)
        row = self._row(chain)
        self._covariance[0, 0] += _MACHINE_STEP
        self._covariance[row, row] += _OWN_STEP
        depends = np.zeros(len(self._mean))
        depends[row] = 1.0
        # The target alone has no part in what the machine does to drafting.
        depends[0] = len(chain) > 1
        shared = self._covariance @ depends
        gain = shared / (depends @ shared + _ROUND_VARIANCE / num_rounds)
        self._mean += gain * (log_ratio - depends @ self._mean)
        self._covariance -= np.outer(gain, shared)

    def fade(self, chain: _Chain, share: float) -> None:
        """So much of what is known of the chain, or of the machine, is forgotten."""
        row = self._rows[chain]
        self._mean[row] *= 1 - share
        self._covariance[row, :] *= 1 - share
        self._covariance[:, row] *= 1 - share
        prior = _OWN_VARIANCE if chain else _MACHINE_VARIANCE
        self._covariance[row, row] += prior * (1 - (1 - share) ** 2)

    def put(self, chain: _Chain, log_ratio: float, variance: float) -> None:
        """Takes what was known of the chain at another time."""
        row = self._row(chain)
        self._mean[row] = log_ratio
        self._covariance[row, :] = self._covariance[:, row] = 0.0
        self._covariance[row, row] = variance

    def log_ratio(self, chain: _Chain) -> float:
        """Of a chain never observed, what the machine does to all."""
        own = self._mean[self._rows[chain]] if chain in self._rows else 0.0
        return float(own + (self._mean[0] if len(chain) > 1 else 0.0))

    def known(self, chain: _Chain) -> tuple[float, float]:
        """The chain's own part: its mean and its variance."""
        row = self._rows[chain]
        return float(self._mean[row]), float(self._covariance[row, row])

    @property
    def chains(self) -> list[_Chain]:
        """All that were observed, behind the machine."""
        return list(self._rows)

    def _row(self, chain: _Chain) -> int:
        if chain not in self._rows:
            self._rows[chain] = len(self._rows)
            self._mean = np.append(self._mean, 0.0)
            self._covariance = np.pad(self._covariance, (0, 1))
            self._covariance[-1, -1] = _OWN_VARIANCE
        return self._rows[chain]


class PaceTable:
    """Ratios of measured to predicted round times, by chain and load."""

    def __init__(self) -> None:
        self._filters: dict[int, _Filter] = {}
        self._aside: dict[str, tuple[PaceState, ...]] = {}
        """Of chains of members that have become slower, as they were before."""

    def observe(self, chain: _Chain, num_sessions: int, predicted_us: float, pace: Pace) -> None:
        """Takes rounds since the last call."""
        measured = pace.total_us / pace.num_rounds / predicted_us
        # What the parts of a round leave out is no multiple of them: they have changed, and are
        # about to be known.
        ratio = min(max(measured, 1 / _MOST), _MOST)
        self._filter(num_sessions).observe(chain, log(ratio), pace.num_rounds)

    def forget(self, members: set[str]) -> None:
        """Of chains not observed since the last call, while others were at their load, what was
        observed counts for less; for much less with one of ``members``, of whom nothing is known
        any more. To be called once a second."""
        for member in members:
            self.restore(self._aside.pop(member, ()))
        for known in self._filters.values():
            # Every chain with drafters shows what the machine does.
            shown = known.observed | {_MACHINE for chain in known.observed if len(chain) > 1}
            for chain in known.chains if known.observed else ():
                if chain not in shown:
                    known.fade(chain, FADED if members.isdisjoint(chain) else FORGOTTEN)
            known.observed.clear()

    def on_change(self, member: str, factor: float) -> None:
        """The member's times have changed by this factor. While they are longer so are its chains'
        rounds, by what the prediction has yet to learn: when it is as fast again, what was known
        before holds again."""
        if factor > 1:
            own = tuple(known for known in self.state() if member in known.chain)
            self._aside.setdefault(member, own)
        elif factor < 1:
            self.restore(self._aside.pop(member, ()))

    def ratio(self, chain: _Chain, num_sessions: int) -> float:
        """Measured over predicted."""
        known = self._filters.get(num_sessions)
        return 1.0 if known is None else exp(known.log_ratio(chain))

    def state(self) -> tuple[PaceState, ...]:
        """Everything known, but how estimates depend on each other."""
        return tuple(
            PaceState(chain, num_sessions, *known.known(chain))
            for num_sessions, known in self._filters.items()
            for chain in known.chains
        )

    def restore(self, state: Iterable[PaceState]) -> None:
        """Takes what an earlier table knew in place of what is here of the same."""
        for chain, num_sessions, log_ratio, variance in state:
            self._filter(num_sessions).put(chain, log_ratio, variance)

    def _filter(self, num_sessions: int) -> _Filter:
        return self._filters.setdefault(num_sessions, _Filter())
