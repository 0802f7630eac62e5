"""A Gaussian process over masks: what a mask not tried yet may be worth, and how sure that is."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

_LENGTHS = (1.0, 2.0, 4.0)
"""Parts that may differ before two masks say little of each other,"""
_SHARES = (0.2, 0.5, 0.8)
"""and how much of the variance is each part's own, whatever else is left out."""
_NOISES = (0.01, 0.1)
"""Of the variance."""


@dataclass(frozen=True, slots=True)
class _Kernel:
    length: float
    share: float
    noise: float

    def between(self, first: Floats, second: Floats) -> Floats:
        """Covariances of masks as 0 and 1, shapes [n, parts] and [m, parts] to [n, m]."""
        differing = np.abs(first[:, None, :] - second[None, :, :]).sum(axis=2)
        linear = 1.0 - 2.0 * differing / first.shape[1]
        near: Floats = np.exp(-differing / (2.0 * self.length))
        both: Floats = self.share * linear + (1.0 - self.share) * near
        return both


class Surrogate:
    """Fitted to masks that were tried.

    Args:
        vectors: masks as 0 and 1, shape [n, parts].
        values: what they came to, shape [n]; less is better.
    """

    def __init__(self, vectors: Floats, values: Sequence[float]) -> None:
        raw = np.asarray(values)
        self._mean, self._scale = raw.mean(), max(raw.std(), 1e-12)
        self._vectors = vectors
        scaled = (raw - self._mean) / self._scale
        self._best = scaled.min()
        kernels = (_Kernel(*three) for three in itertools.product(_LENGTHS, _SHARES, _NOISES))
        fits = [_Fit.of(kernel, vectors, scaled) for kernel in kernels]
        self._fit = max(fits, key=lambda fit: fit.likelihood)

    def improvement(self, vectors: Floats) -> Floats:
        """By how much each of these masks may be expected to beat the best so far, in standard
        deviations of what was tried, shape [m]."""
        mean, deviation = self._fit.predict(self._vectors, vectors)
        gap = (self._best - mean) / deviation
        density = np.exp(-0.5 * gap**2) / math.sqrt(2 * math.pi)
        below = 0.5 * (1 + np.vectorize(math.erf)(gap / math.sqrt(2)))
        found: Floats = deviation * (gap * below + density)
        return found


@dataclass(frozen=True, slots=True)
class _Fit:
    kernel: _Kernel
    lower: Floats
    weights: Floats
    likelihood: float
    """Of the values, as a logarithm."""

    @classmethod
    def of(cls, kernel: _Kernel, vectors: Floats, values: Floats) -> "_Fit":
        covariance = kernel.between(vectors, vectors) + kernel.noise * np.eye(len(vectors))
        lower = np.linalg.cholesky(covariance).astype(np.float64)
        weights: Floats = np.linalg.solve(lower.T, np.linalg.solve(lower, values))
        likelihood = -0.5 * float(values @ weights) - float(np.log(np.diag(lower)).sum())
        return cls(kernel, lower, weights, likelihood)

    def predict(self, known: Floats, vectors: Floats) -> tuple[Floats, Floats]:
        """Means and standard deviations."""
        across = self.kernel.between(vectors, known)
        explained = np.linalg.solve(self.lower, across.T)
        variance = np.maximum(1e-9, 1.0 - (explained**2).sum(axis=0))
        return across @ self.weights, np.sqrt(variance)
