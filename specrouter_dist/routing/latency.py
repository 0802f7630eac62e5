"""How long steps of a member take, as observed under the load that is there."""

import bisect

from specrouter_dist.routing.observations import ForwardKey, ForwardTimes

_MEMORY_STEPS = 400.0
"""Weight of the past, in steps: about the last few seconds of decoding."""
_OUTLIER_FACTOR = 4.0
"""A mean this many times the estimate is a hiccup of the machine; it counts as one step."""
_DRAFTING_ROWS = 4
"""A step that draws several tokens feeds no more than the tail of its stream."""


class _Curve:
    """Decayed mean times over a size."""

    def __init__(self) -> None:
        self._means_us: dict[int, tuple[float, float]] = {}

    def record(self, size: int, times: ForwardTimes) -> None:
        mean, weight = self._means_us.get(size, (0.0, 0.0))
        new_mean = times.total_us / times.count
        is_outlier = weight > 0 and new_mean > _OUTLIER_FACTOR * mean
        new_weight = 1.0 if is_outlier else float(times.count)
        total = weight + new_weight
        merged = (mean * weight + new_mean * new_weight) / total
        self._means_us[size] = (merged, min(total, _MEMORY_STEPS))

    def at(self, size: int) -> float | None:
        """Linear between observed sizes; beyond them on with the slope of the whole curve."""
        if not self._means_us:
            return None
        sizes = sorted(self._means_us)
        at = bisect.bisect_left(sizes, size)
        if at == 0 or (at < len(sizes) and sizes[at] == size):
            return self._means_us[sizes[at]][0]
        low = sizes[at - 1]
        low_us = self._means_us[low][0]
        if at == len(sizes):
            first_us = self._means_us[sizes[0]][0]
            slope = (low_us - first_us) / (low - sizes[0]) if low > sizes[0] else 0.0
            return low_us + max(0.0, slope) * (size - low)
        high = sizes[at]
        share = (size - low) / (high - low)
        return low_us * (1 - share) + self._means_us[high][0] * share


class LatencyTable:
    """Times by member: of a forward by its rows, and of drafting by the tokens drawn.

    A drafter pays once per block for being called and for caches that have gone cold, so the
    time of a block is no multiple of the time of a token.
    """

    def __init__(self) -> None:
        self._forwards: dict[str, _Curve] = {}
        self._drafting: dict[str, _Curve] = {}

    def record(self, key: ForwardKey, times: ForwardTimes) -> None:
        """Takes the times of steps since the last record; those of batches are left out."""
        if key.num_sessions != 1 or not times.count:
            return
        if not key.num_drafts:
            self._forwards.setdefault(key.member, _Curve()).record(key.num_rows, times)
        if key.num_rows <= _DRAFTING_ROWS:
            self._drafting.setdefault(key.member, _Curve()).record(1 + key.num_drafts, times)

    def forward_us(self, member: str, num_rows: int) -> float | None:
        """Time of a forward of ``num_rows``, in microseconds; None if the member is unknown."""
        curve = self._forwards.get(member)
        return curve.at(num_rows) if curve else None

    def drafting_us(self, member: str, num_tokens: int) -> float | None:
        """Time to draw ``num_tokens`` one after the other; None if the member is unknown."""
        curve = self._drafting.get(member)
        return curve.at(num_tokens) if curve else None
