"""A mean that follows what is observed: slowly while it stays, at once when it has changed."""

from specrouter_dist.routing.doubt import Doubt, Judgement
from specrouter_dist.routing.state import Level

_MEMORY_VALUES = 2000.0
"""Weight of the past; in steps, about the last ten seconds of decoding."""
_PRIOR_VALUES = 5.0
"""The prior counts as so many observed values."""


class DecayedMean:
    """A decayed mean that begins with a prior, or where an earlier one stood."""

    def __init__(self, prior: float, level: Level | None = None) -> None:
        self._prior = prior
        self.value, self._weight = level or Level(prior, _PRIOR_VALUES)
        self._doubt = Doubt()

    @property
    def level(self) -> Level:
        """Where it stands."""
        return Level(self.value, self._weight)

    @property
    def is_in_doubt(self) -> bool:
        """The newest value was far from what is known: the next one tells whether that is so."""
        return self._doubt.is_open

    def expect(self, prior: float) -> None:
        """What it drifts to while nothing is observed."""
        self._prior = prior

    def approach(self, goal: float, share: float) -> None:
        """So much of the way."""
        self.value += (goal - self.value) * share

    def drift(self, share: float) -> None:
        """Nothing was observed: the estimate goes so much of the way back to the prior. Without
        this a choice once disqualified would never be tried again."""
        self.approach(self._prior, share)

    def observe(self, mean: float, count: float, base: float = 0.0) -> float:
        """Takes a mean of ``count`` values, that come on top of ``base``. Returns by what factor
        things have changed, the base included: 1.0, or one far from it.

        One far from what is known is a hiccup of the machine and counts as one value, unless the
        one before was, too: then things have changed, and what was is forgotten.
        """
        # A prior is no evidence: what comes first is believed.
        total = base + (self.value if self._weight > _PRIOR_VALUES else mean)
        judgement, factor = self._doubt.judge((base + mean) / total if total else 1.0)
        if judgement is Judgement.CHANGE:
            self.value, self._weight = max(0.0, factor * total - base), count
            return factor
        self.add(mean, 1.0 if judgement is Judgement.HICCUP else count)
        return 1.0

    def add(self, mean: float, count: float) -> None:
        """Takes a mean of ``count`` values that are counted, not timed: none is a hiccup."""
        total = self._weight + count
        self.value += (mean - self.value) * count / total
        self._weight = min(total, _MEMORY_VALUES)
