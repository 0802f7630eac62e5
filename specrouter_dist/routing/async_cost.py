"""What drafting ahead does to the time per token: a table made by the simulator, interpolated.

Each entry is the time per token when the upstream drafts the next block while this one is
verified, over that of lock-step, ``(g * tau + v + hop) / E(g)``: below 1 drafting ahead pays. It
depends on ratios only. ``python -m specrouter_dist.simulation.tables`` makes the file.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

TABLE_FILE = Path(__file__).with_name("async_cost.json")


@dataclass(frozen=True, slots=True)
class AsyncCost:
    """A table over four quantities.

    Attributes:
        agreement: axis, probability that a proposal is accepted after those before it.
        upstream: axis, upstream's time per token over the time of a verify.
        hop: axis, delay there and back over the time of a verify.
        ratios: shape ``[agreement, upstream, hop, lengths]``, for blocks of ``1..lengths``.
    """

    agreement: Floats
    upstream: Floats
    hop: Floats
    ratios: Floats

    @classmethod
    def load(cls, num_lengths: int, file: Path = TABLE_FILE) -> Self:
        """The packaged table, for blocks of ``1..num_lengths``."""
        content = json.loads(file.read_text(encoding="utf-8"))
        axes = {name: np.array(points, dtype=float) for name, points in content["axes"].items()}
        known, wanted = axes.pop("draft_tokens"), np.arange(1, num_lengths + 1)
        table = np.array(content["ratios"], dtype=float)
        by_length = np.apply_along_axis(lambda row: np.interp(wanted, known, row), -1, table)
        return cls(**axes, ratios=by_length)

    def at(self, agreement: float, upstream: Floats, hop: Floats) -> Floats:
        """Linear between the table's points, beyond them as at its edge.

        Args:
            upstream: shape ``[cases]``, as ``hop``.

        Returns:
            shape ``[cases, lengths]``.
        """
        (low, share), rows = _between(self.agreement, agreement), np.arange(len(upstream))
        table = self.ratios[low] * (1 - share) + self.ratios[low + 1] * share
        low, share = _between(self.upstream, upstream)
        share = share[:, None, None]
        table = table[low] * (1 - share) + table[low + 1] * share
        low, share = _between(self.hop, hop)
        share = share[:, None]
        ratios: Floats = table[rows, low] * (1 - share) + table[rows, low + 1] * share
        return ratios


def _between(axis: Floats, values: Floats | float) -> tuple[Any, Any]:
    """The points before each of ``values``, and what share of the way to the next it is."""
    inside = np.clip(values, axis[0], axis[-1])
    low = np.minimum(np.searchsorted(axis, inside, side="right") - 1, len(axis) - 2)
    return low, (inside - axis[low]) / (axis[low + 1] - axis[low])
