"""What drafting ahead does to the time per token: a table made by the simulator, interpolated.

Each entry is the time per token when the upstream drafts the next block while this one is
verified, over that of lock-step, ``(g * tau + v + hop) / E(g)``: below 1 drafting ahead pays. It
depends on ratios only. ``python -m specrouter_dist.simulation.tables`` makes the file.
"""

import json
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from pathlib import Path
from typing import Any, Self

TABLE_FILE = Path(__file__).with_name("async_cost.json")


@dataclass(frozen=True, slots=True)
class AsyncCost:
    """A table over five quantities.

    Attributes:
        agreement: axis, probability that a proposal is accepted after those before it.
        upstream: axis, upstream's time per token over the time of a verify.
        hop: axis, delay there and back over the time of a verify.
        draft_tokens: axis, proposals per block.
        separate: nested lists ``[agreement][upstream][hop][draft_tokens]``, for members on devices
            of their own.
        shared: the same for members that take turns on one, ``hop`` being 0.
    """

    agreement: tuple[float, ...]
    upstream: tuple[float, ...]
    hop: tuple[float, ...]
    draft_tokens: tuple[float, ...]
    separate: Any
    shared: Any

    @classmethod
    def load(cls, file: Path = TABLE_FILE) -> Self:
        """The packaged table."""
        content = json.loads(file.read_text(encoding="utf-8"))
        axes = {name: tuple(points) for name, points in content.pop("axes").items()}
        return cls(**axes, separate=content["separate"], shared=content["shared"])

    def ratio(
        self,
        agreement: float,
        upstream: float,
        hop: float,
        num_draft_tokens: int,
        *,
        shared: bool = False,
    ) -> float:
        """Linear between the points of the table; beyond them as at its edge."""
        axes = (self.agreement, self.upstream, self.hop, self.draft_tokens)
        at = (agreement, upstream, 0.0 if shared else hop, float(num_draft_tokens))
        corners = [_between(axis, value) for axis, value in zip(axes, at, strict=True)]
        table = self.shared if shared else self.separate
        return sum(
            prod(weight for _, weight in corner) * _entry(table, [i for i, _ in corner])
            for corner in product(*corners)
        )


def _between(axis: Sequence[float], value: float) -> list[tuple[int, float]]:
    """Indices of the points around ``value``, with their weights."""
    value = min(max(value, axis[0]), axis[-1])
    low = min(bisect_right(axis, value), len(axis)) - 1
    if axis[low] == value:
        return [(low, 1.0)]
    share = (value - axis[low]) / (axis[low + 1] - axis[low])
    return [(low, 1 - share), (low + 1, share)]


def _entry(table: Any, index: Sequence[int]) -> float:
    for i in index:
        table = table[i]
    return float(table)
