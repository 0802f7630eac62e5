"""How long steps of a member take: the shape from a profile, the level from what is observed.

A step in a chain is slower than the same step in a profile's loop, because the caches have gone
cold or the core was asleep, and it is only observed at the sizes that the present plan uses. So
what is observed scales the whole curve; otherwise sizes that are not used would look fast for
ever, and the planner would chase them.
"""

import bisect

from specrouter_dist.routing.observations import ForwardKey, ForwardTimes

_MEMORY_STEPS = 400.0
"""Weight of the past, in steps: about the last few seconds of decoding."""
_PROFILE_STEPS = 5.0
"""The profile counts as so many observed steps."""
_OUTLIER_FACTOR = 4.0
"""A mean this many times the estimate is a hiccup of the machine; it counts as one step."""
_DRAFTING_ROWS = 4
"""A step that draws several tokens feeds no more than the tail of its stream."""


class _Curve:
    """Times over a size: profiled points, times the decayed ratio of observed to profiled."""

    def __init__(self) -> None:
        self._points_us: dict[int, float] = {}
        self._ratio = 1.0
        self._weight = _PROFILE_STEPS

    def profile(self, size: int, mean_us: float) -> None:
        self._points_us[size] = mean_us

    def observe(self, size: int, times: ForwardTimes) -> None:
        profiled = self._profiled(size)
        if profiled is None:
            return
        ratio = times.total_us / times.count / profiled
        is_outlier = ratio > _OUTLIER_FACTOR * self._ratio
        new_weight = 1.0 if is_outlier else float(times.count)
        total = self._weight + new_weight
        self._ratio = (self._ratio * self._weight + ratio * new_weight) / total
        self._weight = min(total, _MEMORY_STEPS)

    def at(self, size: int) -> float | None:
        profiled = self._profiled(size)
        return None if profiled is None else profiled * self._ratio

    def _profiled(self, size: int) -> float | None:
        """Linear between profiled sizes; beyond them on with the slope of the whole curve."""
        if not self._points_us:
            return None
        sizes = sorted(self._points_us)
        at = bisect.bisect_left(sizes, size)
        if at == 0 or (at < len(sizes) and sizes[at] == size):
            return self._points_us[sizes[at]]
        low = sizes[at - 1]
        low_us = self._points_us[low]
        if at == len(sizes):
            first_us = self._points_us[sizes[0]]
            slope = (low_us - first_us) / (low - sizes[0]) if low > sizes[0] else 0.0
            return low_us + max(0.0, slope) * (size - low)
        high = sizes[at]
        share = (size - low) / (high - low)
        return low_us * (1 - share) + self._points_us[high] * share


class LatencyTable:
    """Times by member: of a forward by its rows, and of drafting by the tokens drawn.

    A drafter pays once per block for being called, so the time of a block is no multiple of the
    time of a token.
    """

    def __init__(self) -> None:
        self._forwards: dict[str, _Curve] = {}
        self._drafting: dict[str, _Curve] = {}

    def profile(self, key: ForwardKey, times: ForwardTimes) -> None:
        """Takes a point of a member's start-up profile."""
        for curve, size in self._curves(key):
            curve.profile(size, times.total_us / times.count)

    def observe(self, key: ForwardKey, times: ForwardTimes) -> None:
        """Takes the times of steps since the last call; those of batches are left out."""
        if key.num_sessions == 1 and times.count:
            for curve, size in self._curves(key):
                curve.observe(size, times)

    def forward_us(self, member: str, num_rows: int) -> float | None:
        """Time of a forward of ``num_rows``, in microseconds; None if the member is unknown."""
        curve = self._forwards.get(member)
        return curve.at(num_rows) if curve else None

    def drafting_us(self, member: str, num_tokens: int) -> float | None:
        """Time to draw ``num_tokens`` one after the other; None if the member is unknown."""
        curve = self._drafting.get(member)
        return curve.at(num_tokens) if curve else None

    def _curves(self, key: ForwardKey) -> list[tuple[_Curve, int]]:
        curves = []
        if not key.num_drafts:
            curves.append((self._forwards.setdefault(key.member, _Curve()), key.num_rows))
        if key.num_rows <= _DRAFTING_ROWS:
            drafting = self._drafting.setdefault(key.member, _Curve())
            curves.append((drafting, 1 + key.num_drafts))
        return curves
