"""How long a forward of a member takes, as observed under the load that is there."""

import bisect

from specrouter_dist.routing.observations import ForwardKey, ForwardTimes

_MEMORY_FORWARDS = 400.0
"""Weight of the past, in forwards: about the last few seconds of decoding."""
_OUTLIER_FACTOR = 4.0
"""A mean this many times the estimate is a hiccup of the machine; it counts as one forward."""


class LatencyTable:
    """Decayed mean time of a forward by member and number of rows."""

    def __init__(self) -> None:
        self._means_us: dict[str, dict[int, tuple[float, float]]] = {}

    def record(self, key: ForwardKey, times: ForwardTimes) -> None:
        """Takes the times of forwards since the last record; those of batches are left out."""
        if key.num_sessions != 1 or not times.count:
            return
        by_rows = self._means_us.setdefault(key.member, {})
        mean, weight = by_rows.get(key.num_rows, (0.0, 0.0))
        new_mean = times.total_us / times.count
        is_outlier = weight > 0 and new_mean > _OUTLIER_FACTOR * mean
        new_weight = 1.0 if is_outlier else float(times.count)
        total = weight + new_weight
        merged = (mean * weight + new_mean * new_weight) / total
        by_rows[key.num_rows] = (merged, min(total, _MEMORY_FORWARDS))

    def forward_us(self, member: str, num_rows: int) -> float | None:
        """Time of a forward of ``num_rows``, in microseconds; None if the member is unknown.

        Between observed row counts linear, beyond them the nearest, scaled up by the slope of
        the whole table for more rows.
        """
        by_rows = self._means_us.get(member)
        if not by_rows:
            return None
        rows = sorted(by_rows)
        at = bisect.bisect_left(rows, num_rows)
        if (at < len(rows) and rows[at] == num_rows) or at == 0:
            return by_rows[rows[at]][0]
        low = rows[at - 1]
        low_us = by_rows[low][0]
        if at == len(rows):
            first_us = by_rows[rows[0]][0]
            slope = (low_us - first_us) / (low - rows[0]) if low > rows[0] else 0.0
            return low_us + max(0.0, slope) * (num_rows - low)
        high = rows[at]
        share = (num_rows - low) / (high - low)
        return low_us * (1 - share) + by_rows[high][0] * share
