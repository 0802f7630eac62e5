"""What similarity says of pairs, by kind of request: what to expect before anything is drafted."""

from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass

from specrouter_dist.routing.comparisons import Comparison, Origin
from specrouter_dist.routing.observations import PairKey
from specrouter_dist.routing.state import ScoreState
from specrouter_dist.routing.traffic import GREEDY, SAMPLED, Traffic

_MEMORY_POSITIONS = 1024.0
"""Weight of the past, in positions: a hundred texts."""
USUAL_PLACES = {Origin.GREEDY: 0.0, Origin.SAMPLED: 0.75}
"""Where between its bounds a sampled request's agreement lies until it has been observed, by the
texts that the bounds are from: in simulations of shared noise at 0.7 to 0.8 on the same texts. On
the embedded pool, greedy texts promise 9 points too much, and the lower bound is closest."""
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
    origin: Origin
    """The texts that it is read off."""
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
            old.origin,
        )
        self.at_s = now_s

    def agreement(self, places: Mapping[Origin, float]) -> float:
        """Expected, if agreement lies at these places between the bounds."""
        mean = self.mean
        return mean.least + places[mean.origin] * (mean.most - mean.least)

    def likeness(self, places: Mapping[Origin, float], now_s: float) -> Likeness:
        """For people."""
        score, least, most, num_positions, origin = self.mean
        agreement, age_s = self.agreement(places), max(0.0, now_s - self.at_s)
        return Likeness(score, agreement, least, most, num_positions, origin, age_s)


class Scores:
    """How alike pairs are."""

    def __init__(self) -> None:
        self._scores: dict[tuple[PairKey, Origin], Score] = {}

    def record(self, key: PairKey, comparison: Comparison, now_s: float) -> None:
        """Takes how alike a pair is for a kind of request, and for that kind in any task."""
        for kind in _layers(key.traffic):
            of = key._replace(traffic=kind), comparison.origin
            if of in self._scores:
                self._scores[of].add(comparison, now_s)
            else:
                self._scores[of] = Score(comparison, now_s)

    def keep(self, kinds: Container[Traffic]) -> None:
        """Forgets scores in a task, but of these kinds."""
        self._scores = {
            (key, origin): score
            for (key, origin), score in self._scores.items()
            if not key.traffic.task or key.traffic in kinds
        }

    def get(self, key: PairKey, origin: Origin) -> Score | None:
        """For this kind of request alone, read off such texts."""
        traffic = _ANY_SAMPLED if key.traffic == SAMPLED else key.traffic
        return self._scores.get((key._replace(traffic=traffic), origin))

    def layers(self, key: PairKey) -> Iterator[Score]:
        """The less direct first: off other texts, then off such as this kind of request writes;
        each in any task, then in this task."""
        own = Origin.of(key.traffic)
        for origin in sorted(Origin, key=lambda origin: origin is own):
            for kind in _layers(key.traffic):
                if (score := self.get(key._replace(traffic=kind), origin)) is not None:
                    yield score

    def newest(self) -> Iterator[tuple[PairKey, float]]:
        """When pairs were last compared, for the widest kinds."""
        for (key, _), score in self._scores.items():
            if key.traffic == GREEDY:
                yield key, score.at_s
            elif key.traffic == _ANY_SAMPLED:
                yield key._replace(traffic=SAMPLED), score.at_s

    # -- remembering -----------------------------------------------------------------------------

    def state(self, now_s: float) -> tuple[ScoreState, ...]:
        """All scores."""
        return tuple(
            ScoreState(*key, *score.mean[:4], origin.value, max(0.0, now_s - score.at_s))
            for (key, origin), score in self._scores.items()
        )

    def restore(self, key: PairKey, state: ScoreState, now_s: float) -> None:
        """Takes an earlier router's in place of what is here of the same."""
        origin = Origin(state.origin)
        mean = Comparison(state.score, state.least, state.most, state.num_positions, origin)
        self._scores[key, origin] = Score(mean, now_s - state.age_s)


def _layers(traffic: Traffic) -> Iterable[Traffic]:
    return dict.fromkeys((Traffic(traffic.regime), traffic))


def place(origin: Origin, observed: Iterable[tuple[Score, float, float]]) -> float:
    """Where between its bounds agreement lies, 0 to 1, by pairs whose agreement is known too.

    A weighted mean: how far off a place makes a prediction is in proportion to the gap between the
    bounds. No pair counts for a place beyond the bounds, whatever it says.

    Args:
        origin: of the scores.
        observed: scores with the share of proposals that were accepted, and how many were judged.
    """
    weight = _USUAL_WEIGHT * _USUAL_GAP**2
    total = USUAL_PLACES[origin] * weight
    for score, agreement, num_judged in observed:
        gap = score.mean.most - score.mean.least
        if gap > 0.0:
            more = num_judged * gap**2
            total += more * min(1.0, max(0.0, (agreement - score.mean.least) / gap))
            weight += more
    return total / weight
