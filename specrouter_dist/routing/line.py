"""What steps take, beside what was profiled: a line that follows what is observed.

A step in a chain takes longer than the same step in a profile's loop: caches have gone cold, and
mail is read and answered around it, all of which costs as much for one row as for ten. On a slower
machine everything takes longer in proportion. So what is observed is ``more_us + ratio *
profiled_us``, by least squares of relative errors over decayed sums. While only one size is in use
the two cannot be told apart, and a prior decides: what is longer is mostly longer by so much.
"""

from functools import cached_property

from specrouter_dist.routing.doubt import Doubt, Judgement
from specrouter_dist.routing.state import LineState

_MEMORY_STEPS = 2000.0
"""Weight of the past; about the last ten seconds of decoding."""
_RATIO_SHARE, _MORE_SHARE = 0.02, 0.004
"""That the ratio is 1, and that nothing comes on top, counts as so much of what was observed: sizes
that hardly differ tell nothing of either, however often they come."""
_LEAST_RATIO = 0.5
"""Of observed over profiled, for sizes that are not observed."""
_FADED = 0.01
"""Share that is forgotten in a second in which nothing is observed: what was slow a while ago is
tried again."""
_RECOVERED = 0.3
"""The same of a change for the worse: it may be over."""

_NOTHING = LineState(0.0, 0.0, 0.0, 0.0, 0.0)


class Line:
    """Of one member at one number of sessions; it begins at what was profiled."""

    def __init__(self, state: LineState = _NOTHING) -> None:
        self.state = state
        """Decayed sums over steps of 1, 1/p, 1/p^2, y/p and y/p^2, profiled p and observed y."""
        self._doubt = Doubt()
        self._usual: tuple[float, float] | None = None
        """What the line was before it became slower."""

    @cached_property
    def _fitted(self) -> tuple[float, float]:
        """``more_us`` and ``ratio``."""
        weight, u, uu, z, uz = self.state
        if not weight:
            return 0.0, 1.0
        a, b, d = uu * (1 + _MORE_SHARE), u, weight * (1 + _RATIO_SHARE)
        z += weight * _RATIO_SHARE
        determinant = a * d - b * b
        more_us, ratio = (d * uz - b * z) / determinant, (a * z - b * uz) / determinant
        if more_us < 0.0:
            return 0.0, z / d
        if ratio < _LEAST_RATIO:
            return max(0.0, uz - b * _LEAST_RATIO) / a, _LEAST_RATIO
        return more_us, ratio

    def at(self, profiled_us: float) -> float:
        """Time of a step for which so much was profiled."""
        return self.more_us + self.ratio * profiled_us

    @property
    def more_us(self) -> float:
        """What every step takes beside what was profiled."""
        return self._fitted[0]

    @property
    def ratio(self) -> float:
        """And what that is multiplied by."""
        return self._fitted[1]

    @property
    def is_in_doubt(self) -> bool:
        """The newest mean was far from what is known: the next one tells whether that is so."""
        return self._doubt.is_open

    def observe(self, profiled_us: float, mean_us: float, count: float) -> float:
        """Takes a mean of ``count`` steps. Returns by what factor things have changed: 1.0, or one
        far from it.

        One far from what is known is a hiccup of the machine and counts as one step, unless the one
        before said the same: then things have changed.
        """
        factor = mean_us / self.at(profiled_us)
        # A prior is no evidence: what comes first is believed.
        judgement = self._doubt.judge(factor if self.state.weight else 1.0, 1.0)
        if judgement is Judgement.CHANGE:
            self._change(factor, count)
            return factor
        self._add(profiled_us, mean_us, 1.0 if judgement is Judgement.HICCUP else count)
        return 1.0

    def fade(self) -> None:
        """For a second nothing was observed. Without this a choice once disqualified would never
        be tried again."""
        if self._usual is not None:
            self._approach(self._usual, _RECOVERED)
        else:
            self._approach((0.0, 1.0), _FADED)

    def _add(self, profiled_us: float, mean_us: float, count: float) -> None:
        weight, u, uu, z, uz = self.state
        count = min(count, _MEMORY_STEPS)
        kept = min(1.0, (_MEMORY_STEPS - count) / weight) if weight else 0.0
        one = 1.0 / profiled_us
        ratio = mean_us * one
        self._put(
            LineState(
                kept * weight + count,
                kept * u + count * one,
                kept * uu + count * one * one,
                kept * z + count * ratio,
                kept * uz + count * ratio * one,
            )
        )

    def _change(self, factor: float, count: float) -> None:
        """All is so much slower or faster: the line keeps its shape, and little weight."""
        usual = self.more_us, self.ratio
        if factor < 1.0:
            self._usual = None
        elif self._usual is None:
            self._usual = usual
        weight, u, uu, _, _ = self.state
        kept = min(1.0, count / weight)
        weight, u, uu = kept * weight, kept * u, kept * uu
        more_us, ratio = factor * usual[0], factor * usual[1]
        self._put(LineState(weight, u, uu, more_us * u + ratio * weight, more_us * uu + ratio * u))

    def _approach(self, goal: tuple[float, float], share: float) -> None:
        more_us, ratio = goal
        weight, u, uu, z, uz = self.state
        z += (more_us * u + ratio * weight - z) * share
        uz += (more_us * uu + ratio * u - uz) * share
        self._put(LineState(weight, u, uu, z, uz))

    def _put(self, state: LineState) -> None:
        self.state = state
        self.__dict__.pop("_fitted", None)
