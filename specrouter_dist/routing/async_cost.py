"""What drafting ahead does to the time per token: a table made by the simulator, interpolated.

Each entry is the time per token when the upstream drafts the next block while this one is
verified, over that of lock-step, ``(g * tau + v + hop) / E(g)``: below 1 drafting ahead pays. It
depends on ratios only. ``python -m specrouter_dist.simulation.tables`` makes the file.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

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

    def at(self, agreement: float, upstream: float, hop: float) -> Floats:
        """Shape ``[lengths]``; linear between the table's points, beyond them as at its edge."""
        table = self.ratios
        for axis, value in (
            (self.agreement, agreement),
            (self.upstream, upstream),
            (self.hop, hop),
        ):
            low, share = _between(axis, value)
            table = table[low] if not share else table[low] * (1 - share) + table[low + 1] * share
        return table


def _between(axis: Floats | Sequence[float], value: float) -> tuple[int, float]:
    """The last point that is not above ``value``, and how far it is to the next one."""
    inside = min(max(value, axis[0]), axis[-1])
    low = int(np.searchsorted(axis, inside, side="right")) - 1
    if low == len(axis) - 1:
        return low, 0.0
    return low, float((inside - axis[low]) / (axis[low + 1] - axis[low]))
