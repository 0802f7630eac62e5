"""Joins the laws of members at the same positions of a text: how alike they are, at any
temperature, whatever the temperature was that the text was written at.

Not that it did not matter. Texts at temperature 0 keep to where models are sure, and alike; what is
read off them promises too much to sampled requests. So it is kept what a comparison comes from.
"""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import permutations
from typing import NamedTuple

import numpy as np

from specrouter_dist.routing.observations import LawReading, PairKey
from specrouter_dist.routing.similarity import Floats, Laws, Matched, SparseRows
from specrouter_dist.routing.traffic import GREEDY, Traffic

_MAX_REQUESTS = 64
"""Requests whose laws are waited for; the oldest is given up."""
_USUAL_TOP_P = 0.9
"""As which every truncation counts."""


class _Shape(NamedTuple):
    """What a kind of request, that is many temperatures and truncations, is taken for."""

    temperature: float
    top_p: float = 1.0


_SHAPES = {
    "cool": _Shape(0.3),
    "warm": _Shape(0.8),
    "hot": _Shape(1.0),
    "cool-truncated": _Shape(0.3, _USUAL_TOP_P),
    "warm-truncated": _Shape(0.8, _USUAL_TOP_P),
    "hot-truncated": _Shape(1.0, _USUAL_TOP_P),
}
_WAYS = tuple(np.array(values) for values in zip(*_SHAPES.values(), strict=True))
"""Temperatures and top-p of these."""


class Origin(StrEnum):
    """Texts at whose positions laws were compared."""

    GREEDY = "greedy texts"
    SAMPLED = "sampled texts"

    @classmethod
    def of(cls, traffic: Traffic) -> "Origin":
        """Those of such requests."""
        return cls.GREEDY if traffic.regime == GREEDY.regime else cls.SAMPLED


class Comparison(NamedTuple):
    """How alike two members are at the sampled positions of one text, or of many."""

    score: float
    """``SimScore = 1 - E[TV]`` (SpecRouter, arXiv 2505.07680), the middle of what rows allow."""
    least: float
    """Least expected agreement: mean of ``(1 - TV)/(1 + TV)`` at the greatest distances."""
    most: float
    """Most expected agreement: mean of ``1 - TV`` at the least distances."""
    num_positions: float
    origin: Origin

    @classmethod
    def each(cls, lower: Floats, upper: Floats, origin: Origin) -> "list[Comparison]":
        """Of the bounds of the distance at each position, ``[num_comparisons, num_positions]``."""
        middle = 1.0 - (lower + upper) / 2.0
        least, most = (1.0 - upper) / (1.0 + upper), 1.0 - lower
        means = [each.mean(axis=-1).tolist() for each in (middle, least, most)]
        count = lower.shape[-1]
        return [
            cls(score, low, high, count, origin) for score, low, high in zip(*means, strict=True)
        ]


@dataclass(frozen=True, slots=True)
class _Read:
    """What one member said of one text."""

    rows: SparseRows
    laws: Laws
    """In the ways of ``_SHAPES``."""


class Comparisons:
    """Joins laws as they come.

    Args:
        models: names of the members that have laws; the last, the target, drafts for none.
    """

    def __init__(self, models: Sequence[str]) -> None:
        self._models = frozenset(models)
        self._target = models[-1]
        self._requests: OrderedDict[int, dict[str, _Read]] = OrderedDict()

    def is_plausible(self, reading: LawReading) -> bool:
        """Whether a model can have said so."""
        return reading.member in self._models and reading.rows.is_plausible

    def add(self, reading: LawReading) -> Iterator[tuple[PairKey, Comparison]]:
        """How alike the members of all pairs are that ``reading`` completes, for every kind of
        request of its task. Distance has no direction: both ways round it is the same."""
        read = self._requests.setdefault(reading.request, {})
        if reading.member in read:
            return
        rows, origin = reading.rows, Origin.of(reading.traffic)
        came = read[reading.member] = _Read(rows, Laws.make(rows, *_WAYS))
        while len(self._requests) > _MAX_REQUESTS:
            self._requests.popitem(last=False)
        for member, before in read.items():
            # Of one text all have as many.
            if member == reading.member or len(before.rows) != len(rows):
                continue
            for regime, comparison in _compare(before, came, origin):
                traffic = Traffic(regime, reading.traffic.task)
                for draft, verifier in permutations((member, reading.member)):
                    if draft != self._target:
                        yield PairKey(draft, verifier, traffic), comparison


def _compare(one: _Read, other: _Read, origin: Origin) -> Iterator[tuple[str, Comparison]]:
    matched = Matched(one.rows, other.rows)
    # Where nothing is drawn, laws are their likeliest ids.
    differ = 1.0 - matched.picks_agree.astype(np.float64)
    bounds = matched.tv_bounds(one.laws, other.laws)
    lower, upper = (np.vstack((differ, bound)) for bound in bounds)
    yield from zip((GREEDY.regime, *_SHAPES), Comparison.each(lower, upper, origin), strict=True)
