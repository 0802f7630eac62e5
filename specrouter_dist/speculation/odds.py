"""How likely a drafter's tokens are to stand, by how nearly it drew another."""

import math
from bisect import bisect_right
from dataclasses import dataclass

_GAP_EDGES = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
_PRIOR_GAPS = (0.06, 0.18, 0.37, 0.75, 1.5, 3.0, 6.0, 12.0)
"""Typical of what lies between the edges."""
_PRIOR_WEIGHT = 4.0
_PRIOR_SHARE = 0.35
"""Of the tokens that do not stand: the runner-up stands instead. Measured on recorded texts of the
embedded pool (``runner_up_agreement``): 0.28 to 0.39, by pair."""
_MOST_WEIGHT = 512.0
"""What is older counts less and less."""


@dataclass(slots=True)
class _Bucket:
    judged: float
    lost: float
    replaced: float


class Odds:
    """Counts of what became of drafted tokens, in buckets of the *gap*: how far the score of the
    best runner-up was below that of the token (``Picks.gaps``).

    Nearness says which tokens of a block are the doubtful ones; how doubtful, the verifier's
    judgements do. Before there are any, a token is lost as often as one of two with that
    difference of scores is drawn against its odds.
    """

    def __init__(self) -> None:
        self._buckets = []
        for gap in _PRIOR_GAPS:
            lost = _PRIOR_WEIGHT / (1.0 + math.exp(gap))
            self._buckets.append(_Bucket(_PRIOR_WEIGHT, lost, _PRIOR_SHARE * lost))

    def stands(self, gap: float) -> float:
        """The chance that a token stands if all before it do."""
        bucket = self._bucket(gap)
        return 1.0 - bucket.lost / bucket.judged

    def replaced(self, gap: float) -> float:
        """The chance that the best runner-up stands instead."""
        bucket = self._bucket(gap)
        return bucket.replaced / bucket.judged

    def learn(self, gap: float, *, lost: bool, replaced: bool) -> None:
        """A token has been judged: whether it was lost, and if so, to the best runner-up."""
        bucket = self._bucket(gap)
        if bucket.judged >= _MOST_WEIGHT:
            bucket.judged /= 2
            bucket.lost /= 2
            bucket.replaced /= 2
        bucket.judged += 1
        bucket.lost += lost
        bucket.replaced += lost and replaced

    def _bucket(self, gap: float) -> _Bucket:
        return self._buckets[bisect_right(_GAP_EDGES, gap)]
