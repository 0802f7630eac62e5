"""What similarity says of pairs, by kind of request: what to expect before anything is drafted."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from specrouter_dist.routing.comparisons import Comparison
from specrouter_dist.routing.observations import PairKey
from specrouter_dist.routing.state import ScoreState
from specrouter_dist.routing.traffic import GREEDY, SAMPLED, Traffic

_MEMORY_POSITIONS = 1024.0
"""Weight of the past, in positions: a hundred texts."""
USUAL_PLACE = 0.75
"""Where between its bounds agreement lies until it has been observed: in simulations of shared
noise it lay at 0.7 to 0.8."""
_USUAL_WEIGHT = 200.0
"""The usual place counts as so many proposals of a pair whose bounds lie ``_USUAL_GAP`` apart."""
_USUAL_GAP = 0.1
_ANY_SAMPLED = Traffic("warm")
"""As which a sampled request counts of which no more is known."""


@dataclass(frozen=True, slots=True)
class Likeness:
    """What similarity has to say of a pair, for people."""

    score: float
    """``SimScore = 1 - E[TV]``; for greedy requests the share of equal likeliest ids."""
    agreement: float
    """Expected from it."""
    least: float
    most: float
    """Bounds of what may be expected."""
    num_positions: float
    """Effective number."""
    age_s: float
    """Of the newest comparison."""


@dataclass(slots=True)
class Score:
    """A decayed mean of comparisons."""

    mean: Comparison
    at_s: float
    """When the newest came, by the router's clock."""

    def add(self, comparison: Comparison, now_s: float) -> None:
        """Takes one that is newer than all before."""
        old, new = self.mean, comparison
        weight = old.num_positions * _MEMORY_POSITIONS / (_MEMORY_POSITIONS + new.num_positions)
        share = new.num_positions / (weight + new.num_positions)
        self.mean = Comparison(
            old.score + (new.score - old.score) * share,
            old.least + (new.least - old.least) * share,
            old.most + (new.most - old.most) * share,
            weight + new.num_positions,
        )
        self.at_s = now_s

    def agreement(self, place: float) -> float:
        """Expected, if agreement lies at ``place`` between its bounds."""
        return self.mean.least + place * (self.mean.most - self.mean.least)

    def likeness(self, place: float, now_s: float) -> Likeness:
        """For people."""
        score, least, most, num_positions = self.mean
        agreement = self.agreement(place)
        return Likeness(score, agreement, least, most, num_positions, max(0.0, now_s - self.at_s))


class Scores:
    """How alike pairs are."""

    def __init__(self) -> None:
        self._scores: dict[PairKey, Score] = {}

    def record(self, key: PairKey, comparison: Comparison, now_s: float) -> None:
        """Takes how alike a pair is for a kind of request, and for that kind in any task."""
        for kind in _layers(key.traffic):
            of = key._replace(traffic=kind)
            if of in self._scores:
                self._scores[of].add(comparison, now_s)
            else:
                self._scores[of] = Score(comparison, now_s)

    def get(self, key: PairKey) -> Score | None:
        """For this kind of request alone."""
        traffic = _ANY_SAMPLED if key.traffic == SAMPLED else key.traffic
        return self._scores.get(key._replace(traffic=traffic))

    def layers(self, key: PairKey) -> Iterator[Score]:
        """For this kind of request in any task, then for this kind in this task."""
        for kind in _layers(key.traffic):
            if (score := self.get(key._replace(traffic=kind))) is not None:
                yield score

    def newest(self) -> Iterator[tuple[PairKey, float]]:
        """When pairs were last compared, for the widest kinds."""
        for key, score in self._scores.items():
            if key.traffic == GREEDY:
                yield key, score.at_s
            elif key.traffic == _ANY_SAMPLED:
                yield key._replace(traffic=SAMPLED), score.at_s

    # -- remembering -----------------------------------------------------------------------------

    def state(self, now_s: float) -> tuple[ScoreState, ...]:
        """All scores."""
        return tuple(
            ScoreState(*key, *score.mean, max(0.0, now_s - score.at_s))
            for key, score in self._scores.items()
        )

    def restore(self, key: PairKey, state: ScoreState, now_s: float) -> None:
        """Takes an earlier router's in place of what is here of the same."""
        mean = Comparison(state.score, state.least, state.most, state.num_positions)
        self._scores[key] = Score(mean, now_s - state.age_s)


def _layers(traffic: Traffic) -> Iterable[Traffic]:
    return dict.fromkeys((Traffic(traffic.regime), traffic))


def place(observed: Iterable[tuple[Score, float, float]]) -> float:
    """Where between its bounds agreement lies, 0 to 1, by pairs whose agreement is known too.

    A weighted mean: how far off a place makes a prediction is in proportion to the gap between the
    bounds. No pair counts for a place beyond the bounds, whatever it says.

    Args:
        observed: scores with the share of proposals that were accepted, and how many were judged.
    """
    weight = _USUAL_WEIGHT * _USUAL_GAP**2
    total = USUAL_PLACE * weight
    for score, agreement, num_judged in observed:
        gap = score.mean.most - score.mean.least
        if gap > 0.0:
            more = num_judged * gap**2
            total += more * min(1.0, max(0.0, (agreement - score.mean.least) / gap))
            weight += more
    return total / weight
