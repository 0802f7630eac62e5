"""What steps take, beside what was profiled: a line that follows what is observed.

A step in a chain takes longer than the same step in a profile's loop: caches have gone cold, and
mail is read and answered around it, all of which costs as much for one row as for ten. On a slower
machine everything takes longer in proportion. So what is observed is ``more_us + ratio *
profiled_us``, by least squares of relative errors over decayed sums. While only one size is in use
the two cannot be told apart, and a prior decides: what is longer is mostly longer by so much.
"""

from collections.abc import Sequence
from typing import NamedTuple

from specrouter_dist.routing.doubt import Doubt, Judgement
from specrouter_dist.routing.state import LineState

_MEMORY_STEPS = 2000.0
"""Weight of the past; about the last ten seconds of decoding."""
_USUAL_STEPS = 40_000.0
"""The same of what is usual: some minutes."""
_RATIO_SHARE, _MORE_SHARE = 0.02, 0.004
"""That the ratio is 1, and that nothing comes on top, counts as so much of what was observed: sizes
that hardly differ tell nothing of either, however often they come."""
_LEAST_RATIO = 0.5
"""Of observed over profiled, for sizes that are not observed."""
_FADED = 0.01
"""Share that is forgotten in a second in which nothing is observed: what was slow a while ago is
tried again."""
RECOVERED = 0.3
"""The same of what is slower than usual: that may be over."""
SLOWER = 1.25
"""Than usual, by this factor; what is faster by as much is usual at once."""

_NOTHING = LineState(0.0, 0.0, 0.0, 0.0, 0.0)


class Steps(NamedTuple):
    """Steps for which the same was profiled."""

    profiled_us: float
    total_us: float
    num_steps: float


class Line:
    """Of one member at one number of sessions; it begins at what was profiled."""

    def __init__(self, state: LineState = _NOTHING) -> None:
        self.state = state
        """Decayed sums over steps of 1, 1/p, 1/p^2, y/p and y/p^2, profiled p and observed y."""
        self.more_us, self.ratio = _fitted(state)
        """What every step takes beside what was profiled, and what that is multiplied by."""
        self._usual = state
        """The same sums over a longer time."""
        self._recovers = False
        """Since it is not observed: it was slower than usual."""
        self._doubt = Doubt()

    def at(self, profiled_us: float) -> float:
        """Time of a step for which so much was profiled."""
        return self.more_us + self.ratio * profiled_us

    @property
    def over_usual(self) -> float:
        """Times of steps as they are observed, over what is usual of them."""
        more_us, ratio = _fitted(self._usual)
        profiled_us = self.state.weight / self.state.u if self.state.u else 1.0
        return self.at(profiled_us) / (more_us + ratio * profiled_us)

    @property
    def is_in_doubt(self) -> bool:
        """The newest report was far from what is known: the next one tells whether that is so."""
        return self._doubt.is_open

    def observe(self, steps: Sequence[Steps]) -> float:
        """Takes those of a report that lie on it. Returns by what factor things have changed: 1.0,
        or one far from it.

        A report far from what is known is a hiccup of the machine and counts as one step, unless
        the one before was, too: then things have changed.
        """
        count = sum(each.num_steps for each in steps)
        judgement, believed = self._doubt.judge(self._over_known(steps))
        if judgement is Judgement.CHANGE:
            self._change(believed, count)
            return believed
        self.add(steps, 1.0 / count if judgement is Judgement.HICCUP else 1.0)
        return 1.0

    def add(self, steps: Sequence[Steps], weight: float = 1.0) -> None:
        """Takes steps that say nothing of a change; each counts so much."""
        self._recovers = False
        for profiled_us, total_us, count in steps:
            step = 1.0 / profiled_us, total_us / count / profiled_us
            counted = min(weight * count, _MEMORY_STEPS)
            self._usual = _added(self._usual, *step, counted, _USUAL_STEPS)
            self._put(_added(self.state, *step, counted, _MEMORY_STEPS))

    def fade(self) -> None:
        """For a second nothing was observed. Without this a choice once disqualified would never
        be tried again."""
        self._recovers |= self.over_usual > SLOWER
        if self._recovers:
            self._approach(_fitted(self._usual), RECOVERED)
        else:
            self._approach((0.0, 1.0), _FADED)

    def _over_known(self, steps: Sequence[Steps]) -> float:
        """Their time over what is known of it. A prior is no evidence: what comes first is
        believed."""
        if not self.state.weight:
            return 1.0
        known_us = sum(each.num_steps * self.at(each.profiled_us) for each in steps)
        return sum(each.total_us for each in steps) / known_us

    def _change(self, factor: float, count: float) -> None:
        """All is so much slower or faster: the line keeps its shape, and little weight."""
        self._recovers = False
        weight, u, uu, _, _ = self.state
        kept = min(1.0, count / weight)
        weight, u, uu = kept * weight, kept * u, kept * uu
        more_us, ratio = factor * self.more_us, factor * self.ratio
        self._put(LineState(weight, u, uu, more_us * u + ratio * weight, more_us * uu + ratio * u))

    def _approach(self, goal: tuple[float, float], share: float) -> None:
        more_us, ratio = goal
        weight, u, uu, z, uz = self.state
        z += (more_us * u + ratio * weight - z) * share
        uz += (more_us * uu + ratio * u - uz) * share
        self._put(LineState(weight, u, uu, z, uz))

    def _put(self, state: LineState) -> None:
        self.state = state
        self.more_us, self.ratio = _fitted(state)
        if self.over_usual < 1 / SLOWER:
            self._usual = state


def _fitted(state: LineState) -> tuple[float, float]:
    """``more_us`` and ``ratio``."""
    weight, u, uu, z, uz = state
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


def _added(state: LineState, u: float, z: float, count: float, memory: float) -> LineState:
    """With ``count`` steps of 1/p and y/p on top."""
    kept = min(1.0, (memory - count) / state.weight) if state.weight else 0.0
    return LineState(
        kept * state.weight + count,
        kept * state.u + count * u,
        kept * state.uu + count * u * u,
        kept * state.z + count * z,
        kept * state.uz + count * z * u,
    )
