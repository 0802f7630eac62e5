"""How long steps of a member take: the shape from a profile, the level from what is observed.

A step in a chain is slower than the same step in a profile's loop, because the caches have gone
cold or the core was asleep, and it is only observed at the sizes that the present plan uses. So
what is observed scales the whole curve; otherwise sizes that are not used would look fast for
ever, and the planner would chase them.
"""

import bisect
from collections.abc import Iterable, Mapping
from itertools import accumulate

from specrouter_dist.routing.decayed import DecayedMean
from specrouter_dist.routing.observations import ForwardKey, ForwardTimes, WaitKey
from specrouter_dist.routing.state import (
    BatchState,
    HopState,
    LatencyState,
    SlowdownState,
    SurfaceState,
)

FORGOTTEN = 0.2
"""Share of what was observed of a member that is forgotten in a second in which it neither works
nor is probed."""
FADED = 0.01
"""Share that is forgotten in a second of hops and the like that are not in use: nobody probes them,
and what was bad once may have become better."""
_MOST_INTERPOLATED = 1024
_DRAFTING_ROWS = 4
"""A step that draws several tokens feeds no more than the tail of its stream."""


class _Curve:
    """Profiled times over a size."""

    def __init__(self) -> None:
        self.points_us: dict[int, float] = {}
        """As measured."""
        self._sizes: list[int] = []
        self._times_us: list[float] = []

    def profile(self, size: int, mean_us: float) -> None:
        self.points_us[size] = mean_us
        self._sizes = sorted(self.points_us)
        # Less work takes no longer: a time above that of a larger size was a hiccup.
        times_us = (self.points_us[size] for size in reversed(self._sizes))
        self._times_us = [*accumulate(times_us, min)][::-1]

    def at(self, size: float) -> float:
        """Linear between profiled sizes; beyond them on with the slope of the whole curve."""
        sizes, times_us = self._sizes, self._times_us
        at = bisect.bisect_left(sizes, size)
        if at == 0 or (at < len(sizes) and sizes[at] == size):
            return times_us[at]
        low, low_us = sizes[at - 1], times_us[at - 1]
        if at == len(sizes):
            slope = (low_us - times_us[0]) / (low - sizes[0]) if low > sizes[0] else 0.0
            return low_us + slope * (size - low)
        share = (size - low) / (sizes[at] - low)
        return low_us * (1 - share) + times_us[at] * share


class _Surface:
    """Times over the size per session and the number of sessions in the batch: profiled, times
    the decayed ratio of observed to profiled at about that number."""

    def __init__(self) -> None:
        self._curves: dict[int, _Curve] = {}
        self._known: list[int] = []
        self._ratios: dict[int, DecayedMean] = {}
        # Found once: the planner asks for the same sizes again and again.
        self._interpolated: dict[tuple[float, int], float] = {}
        self._nearest_ratios: dict[int, DecayedMean] = {}

    def profile(self, size: int, num_sessions: int, mean_us: float) -> None:
        self._interpolated.clear()
        self._nearest_ratios.clear()
        self._curves.setdefault(num_sessions, _Curve()).profile(size, mean_us)
        self._known = sorted(self._curves)
        self._ratios.setdefault(num_sessions, DecayedMean(1.0))

    def observe(self, size: float, num_sessions: int, times: ForwardTimes) -> bool:
        if not self._curves:
            return False
        ratio = times.total_us / times.count / self._profiled(size, num_sessions)
        return self._nearest(num_sessions).observe(ratio, times.count)

    def at(self, size: float, num_sessions: int) -> float | None:
        if not self._curves:
            return None
        return self._profiled(size, num_sessions) * self._nearest(num_sessions).value

    def drift(self) -> None:
        for ratio in self._ratios.values():
            ratio.drift(FORGOTTEN)

    def state(self) -> tuple[BatchState, ...]:
        return tuple(
            BatchState(
                num_sessions, self._ratios[num_sessions].level, tuple(curve.points_us.items())
            )
            for num_sessions, curve in self._curves.items()
        )

    def restore(self, batches: Iterable[BatchState]) -> None:
        for batch in batches:
            for size, mean_us in batch.points_us:
                self.profile(size, batch.num_sessions, mean_us)
            self._ratios[batch.num_sessions] = DecayedMean(1.0, batch.ratio)
        self._nearest_ratios.clear()

    def _nearest(self, num_sessions: int) -> DecayedMean:
        found = self._nearest_ratios.get(num_sessions)
        if found is None:
            nearest = min(self._ratios, key=lambda known: abs(known - num_sessions))
            found = self._nearest_ratios[num_sessions] = self._ratios[nearest]
        return found

    def _profiled(self, size: float, num_sessions: int) -> float:
        found = self._interpolated.get((size, num_sessions))
        if found is None:
            if len(self._interpolated) >= _MOST_INTERPOLATED:
                self._interpolated.clear()
            found = self._interpolate(size, num_sessions)
            self._interpolated[size, num_sessions] = found
        return found

    def _interpolate(self, size: float, num_sessions: int) -> float:
        known = self._known
        above = bisect.bisect_left(known, num_sessions)
        if above == len(known):
            return self._curves[known[-1]].at(size) * num_sessions / known[-1]
        high = known[above]
        if above == 0 or high == num_sessions:
            return self._curves[high].at(size)
        low = known[above - 1]
        share = (num_sessions - low) / (high - low)
        return self._curves[low].at(size) * (1 - share) + self._curves[high].at(size) * share


class LatencyTable:
    """Times by member: of a forward by its rows, and of drafting by the tokens drawn, each per
    session of the batch.

    A drafter pays once per block for being called, so the time of a block is no multiple of the
    time of a token.

    Args:
        hop_us: what a round pays for crossing from one worker to the next and back, until it has
            been observed.
    """

    def __init__(self, hop_us: float) -> None:
        self._forwards: dict[str, _Surface] = {}
        self._drafting: dict[str, _Surface] = {}
        # How much longer a verify takes while the next block is being drafted: cores of one
        # machine may share caches, memory and even arithmetic units.
        self._slowdowns: dict[tuple[str, str], DecayedMean] = {}
        self._observed: set[str | tuple[str, str]] = set()
        """Members and pairs observed since :meth:`forget` was last called."""
        self._hop_prior_us = hop_us
        self._hops: dict[tuple[str, str], DecayedMean] = {}

    def profile(self, key: ForwardKey, times: ForwardTimes) -> None:
        """Takes a point of a member's start-up profile."""
        size = key.num_rows // key.num_sessions
        for surface, of in self._surfaces(key, size):
            surface.profile(int(of), key.num_sessions, times.total_us / times.count)

    def observe(self, key: ForwardKey, times: ForwardTimes) -> bool:
        """Takes the times of steps since the last call; whether the member has become another:
        what is known of its rounds with others holds no longer."""
        if not times.count:
            return False
        self._observed.add(key.member)
        size = key.num_rows / key.num_sessions
        if key.beside is None:
            changes = [
                surface.observe(of, key.num_sessions, times)
                for surface, of in self._surfaces(key, size)
            ]
            if any(changes):
                self._start_over(key.member)
                return True
        elif (alone_us := self.forward_us(key.member, size, key.num_sessions)) is not None:
            pair = key.beside, key.member
            self._observed.add(pair)
            slowdown = self._slowdowns.setdefault(pair, DecayedMean(1.0))
            slowdown.observe(max(1.0, times.total_us / times.count / alone_us), times.count)
        return False

    def _start_over(self, member: str) -> None:
        for known in (self._slowdowns, self._hops):
            for pair in [pair for pair in known if member in pair]:
                del known[pair]

    def forget(self) -> set[str]:
        """Of members not observed since the last call, what was observed counts for less: one that
        was slow is tried again. To be called once a second; returns these members."""
        unknown = self._forwards.keys() - self._observed
        for surfaces in (self._forwards, self._drafting):
            for member in surfaces.keys() & unknown:
                surfaces[member].drift()
        for known in (self._slowdowns, self._hops):
            for pair, mean in known.items():
                if pair not in self._observed:
                    mean.drift(FADED if unknown.isdisjoint(pair) else FORGOTTEN)
        self._observed.clear()
        return unknown

    def observe_wait(self, key: WaitKey, times: ForwardTimes) -> None:
        """Takes waits for blocks: what they last beyond the drafting is the hop."""
        block_us = self.drafting_us(key.draft, key.num_proposals)
        if block_us is not None and times.count:
            pair = key.draft, key.verifier
            self._observed.add(pair)
            hop = self._hops.setdefault(pair, DecayedMean(self._hop_prior_us))
            hop.observe(max(0.0, times.total_us / times.count - block_us), times.count)

    def hop_us(self, draft: str, verifier: str) -> float:
        """What a round pays for crossing between the two, there and back."""
        hop = self._hops.get((draft, verifier))
        return self._hop_prior_us if hop is None else hop.value

    def forward_us(
        self, member: str, num_rows: float, num_sessions: int = 1, *, beside: str | None = None
    ) -> float | None:
        """Time of a forward of ``num_rows`` for each of ``num_sessions``, in microseconds.

        ``beside``: while that drafter drafts the next block. None: the member is unknown.
        """
        surface = self._forwards.get(member)
        alone_us = surface.at(num_rows, num_sessions) if surface else None
        if alone_us is None or beside is None or (beside, member) not in self._slowdowns:
            return alone_us
        return alone_us * self._slowdowns[beside, member].value

    def drafting_us(self, member: str, num_tokens: int, num_sessions: int = 1) -> float | None:
        """Time to draw ``num_tokens`` one after the other for each of ``num_sessions``; None if
        the member is unknown."""
        surface = self._drafting.get(member)
        return surface.at(num_tokens, num_sessions) if surface else None

    def state(self) -> LatencyState:
        """Everything known."""
        return LatencyState(
            _surface_states(self._forwards),
            _surface_states(self._drafting),
            tuple(SlowdownState(*pair, mean.level) for pair, mean in self._slowdowns.items()),
            tuple(HopState(*pair, mean.level) for pair, mean in self._hops.items()),
        )

    def restore(self, state: LatencyState) -> None:
        """Takes what an earlier table knew in place of what is here of the same."""
        for member, batches in state.forwards:
            self._forwards.setdefault(member, _Surface()).restore(batches)
        for member, batches in state.drafting:
            self._drafting.setdefault(member, _Surface()).restore(batches)
        for beside, member, ratio in state.slowdowns:
            self._slowdowns[beside, member] = DecayedMean(1.0, ratio)
        for draft, verifier, level in state.hops:
            self._hops[draft, verifier] = DecayedMean(self._hop_prior_us, level)

    def _surfaces(self, key: ForwardKey, size: float) -> list[tuple[_Surface, float]]:
        surfaces: list[tuple[_Surface, float]] = []
        if not key.num_drafts:
            surfaces.append((self._forwards.setdefault(key.member, _Surface()), size))
        if size <= _DRAFTING_ROWS:
            drafting = self._drafting.setdefault(key.member, _Surface())
            surfaces.append((drafting, 1.0 + key.num_drafts))
        return surfaces


def _surface_states(surfaces: Mapping[str, _Surface]) -> tuple[SurfaceState, ...]:
    """A surface without a profile knows nothing."""
    states = (SurfaceState(member, surface.state()) for member, surface in surfaces.items())
    return tuple(state for state in states if state.batches)
