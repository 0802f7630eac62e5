"""Functions of a number of tokens, of which each way of a batch has its own."""

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


class Interpolated:
    """Linear between whole numbers; beyond the first and the last as there.

    Args:
        values: of each way, shape [ways, numbers].
        first: the number that the first values belong to.
    """

    __slots__ = ("_first", "_most", "_shape", "_starts", "_steps", "_values")

    def __init__(self, values: Floats, first: int = 0) -> None:
        num_ways, num_values = values.shape
        steps = np.zeros_like(values)
        np.subtract(values[:, 1:], values[:, :-1], out=steps[:, :-1])
        self._first = first
        self._most = float(num_values - 1)
        self._values, self._steps = values.ravel(), steps.ravel()
        self._shape = values.shape
        self._starts = np.arange(0, num_ways * num_values, num_values)[:, None]

    def at(self, num_tokens: Floats) -> Floats:
        """Shape [..., ways, any], as ``num_tokens``."""
        within = np.minimum(np.maximum(num_tokens - self._first, 0.0), self._most)
        whole = within.astype(np.intp)
        index = whole + self._starts
        found: Floats = self._values[index] + (within - whole) * self._steps[index]
        return found

    def rows(self, ways: npt.NDArray[np.intp]) -> "Interpolated":
        """Of some of the ways, in this order."""
        return Interpolated(self._values.reshape(self._shape)[ways], self._first)
