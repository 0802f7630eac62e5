"""Medians with bootstrap intervals."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_RESAMPLES = 2000


@dataclass(frozen=True, slots=True)
class Interval:
    """A median and its 95 % bootstrap interval."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f} [{self.low:.2f}, {self.high:.2f}]"


def median_interval(values: Sequence[float]) -> Interval:
    """The median of ``values`` with a 95 % percentile-bootstrap interval."""
    generator = np.random.default_rng(0)
    samples = generator.choice(np.asarray(values), (_RESAMPLES, len(values)))
    low, high = np.percentile(np.median(samples, axis=1), (2.5, 97.5))
    return Interval(statistics.median(values), float(low), float(high))


def ratio_interval(values: Sequence[float], bases: Sequence[float]) -> Interval | None:
    """Of the sum of ``values`` over that of ``bases``, which go in pairs: the median over resampled
    pairs, with a 95 % percentile-bootstrap interval. None: too many bases are 0 to say."""
    chosen = np.random.default_rng(0).integers(len(values), size=(_RESAMPLES, len(values)))
    sums, of_bases = (np.asarray(each, float)[chosen].sum(axis=1) for each in (values, bases))
    if not of_bases.all():
        return None
    low, median, high = np.percentile(sums / of_bases, (2.5, 50.0, 97.5)).tolist()
    return Interval(median, low, high)
