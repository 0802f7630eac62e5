"""Times of one member's steps over size, sessions and context: the shape from a profile, the level
from what is observed.

Steps are only observed at the sizes that the present plan uses. So what is observed moves the whole
surface (routing/line.py); otherwise sizes that are not used would look fast for ever, and the
planner would chase them.
"""

import bisect
from collections.abc import Iterable
from itertools import accumulate
from typing import Self

import numpy as np
import numpy.typing as npt

from specrouter_dist.routing.line import RECOVERED, SLOWER, Line
from specrouter_dist.routing.state import BatchState

Floats = npt.NDArray[np.float64]

_MOST_INTERPOLATED = 1024


class _Curve:
    """Profiled values over a size."""

    def __init__(self) -> None:
        self._points: dict[int, float] = {}
        """As measured."""
        self._sizes: list[int] = []
        self._values: list[float] = []

    def put(self, size: int, value: float) -> None:
        self._points[size] = value
        self._sizes = sorted(self._points)
        # Less work takes no longer: a time above that of a larger size was a hiccup.
        values = (self._points[size] for size in reversed(self._sizes))
        self._values = [*accumulate(values, min)][::-1]

    def at(self, size: float) -> float:
        """Linear between profiled sizes; beyond them on with the slope of the whole curve."""
        sizes, values = self._sizes, self._values
        at = bisect.bisect_left(sizes, size)
        if at == 0 or (at < len(sizes) and sizes[at] == size):
            return values[at]
        low, low_value = sizes[at - 1], values[at - 1]
        if at == len(sizes):
            slope = (low_value - values[0]) / (low - sizes[0]) if low > sizes[0] else 0.0
            return low_value + slope * (size - low)
        share = (size - low) / (sizes[at] - low)
        return low_value * (1 - share) + values[at] * share


class _Curves:
    """Profiled values over the size per session and the number of sessions in the batch."""

    def __init__(self) -> None:
        self._curves: dict[int, _Curve] = {}
        self._known: list[int] = []
        # Found once: the planner asks for the same sizes again and again.
        self._interpolated: dict[tuple[float, int], float] = {}
        self._rows: dict[tuple[range, int], Floats] = {}

    def put(self, size: int, num_sessions: int, value: float) -> None:
        self._interpolated.clear()
        self._rows.clear()
        self._curves.setdefault(num_sessions, _Curve()).put(size, value)
        self._known = sorted(self._curves)

    def at(self, size: float, num_sessions: int) -> float:
        """0 if nothing was profiled; for more sessions than were profiled, as much for each."""
        found = self._interpolated.get((size, num_sessions))
        if found is None:
            if len(self._interpolated) >= _MOST_INTERPOLATED:
                self._interpolated.clear()
            found = self._interpolate(size, num_sessions) if self._known else 0.0
            self._interpolated[size, num_sessions] = found
        return found

    def over(self, sizes: range, num_sessions: int) -> Floats:
        """The same at each of these sizes."""
        found = self._rows.get((sizes, num_sessions))
        if found is None:
            if len(self._rows) >= _MOST_INTERPOLATED:
                self._rows.clear()
            found = np.array([self.at(size, num_sessions) for size in sizes])
            self._rows[sizes, num_sessions] = found
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


class Surface:
    """Times over the size per session, the number of sessions in the batch and their mean context:
    profiled, along the line of what is observed at about that number of sessions.

    Attention reads every session's cache, so a step takes longer by a slope times the context. The
    slope is profiled at few sizes and numbers of sessions, and is one of them too: more rows have
    more to compute with what is read.
    """

    def __init__(self) -> None:
        self._points_us: dict[int, dict[tuple[int, int], float]] = {}
        """As measured: by sessions, then by size and context."""
        self._times_us = _Curves()
        """At the shortest context."""
        self._slopes_us = _Curves()
        """What each further token of context, of every session, adds."""
        self._shortest_tokens = 0
        self.largest_size = 0
        """Profiled; 0 without a profile."""
        self._lines: dict[int, Line] = {}
        self._nearest_lines: dict[int, Line] = {}
        self._followed = 1.0
        """By how many times the other surface takes longer than is usual of it."""

    def profile(self, size: int, num_sessions: int, context_tokens: int, mean_us: float) -> None:
        """Takes a point of the start-up profile."""
        points_us = self._points_us.setdefault(num_sessions, {})
        points_us[size, context_tokens] = mean_us
        contexts = [context for at, context in points_us if at == size]
        short, long = min(contexts), max(contexts)
        self._times_us.put(size, num_sessions, points_us[size, short])
        if long > short:
            slope_us = (points_us[size, long] - points_us[size, short]) / (long - short)
            self._slopes_us.put(size, num_sessions, max(0.0, slope_us))
        self._shortest_tokens = min(self._shortest_tokens or short, short)
        self.largest_size = max(self.largest_size, size)
        self._nearest_lines.clear()
        self._lines.setdefault(num_sessions, Line())

    def line(self, num_sessions: int) -> Line | None:
        """Of about that number of sessions; None without a profile."""
        return self._nearest(num_sessions) if self._points_us else None

    def lead(self) -> None:
        """It was observed, and not much less than the member's other surface."""
        self._followed = 1.0

    def follow(self, other: Self, num_sessions: int) -> None:
        """The member's other surface was observed, this one hardly: what is slower than usual there
        is as much slower here, but for what this one has shown of it."""
        self._followed = other.over_usual(num_sessions)

    def over_usual(self, num_sessions: int) -> float:
        """Times as they are observed, over what is usual of them."""
        return self._nearest(num_sessions).over_usual if self._points_us else 1.0

    def at(self, size: float, num_sessions: int, context_tokens: float) -> float | None:
        """Time in microseconds; None without a profile."""
        if not self._points_us:
            return None
        profiled_us = self.profiled_us(size, num_sessions, context_tokens)
        line = self._nearest(num_sessions)
        return self._slower(line) * line.at(profiled_us)

    def over(self, sizes: range, num_sessions: int, context_tokens: float) -> Floats | None:
        """Times at each of these sizes in microseconds; None without a profile."""
        if not self._points_us:
            return None
        slopes_us = self._slopes_us.over(sizes, num_sessions)
        more_us = self._beyond_shortest(context_tokens) * slopes_us
        profiled_us = self._times_us.over(sizes, num_sessions) + more_us
        line = self._nearest(num_sessions)
        return self._slower(line) * (line.more_us + line.ratio * profiled_us)

    def slope_us(self, size: float, num_sessions: int) -> float | None:
        """What each further token of context, of every session, adds; None without a profile."""
        if not self._points_us:
            return None
        line = self._nearest(num_sessions)
        return self._slopes_us.at(size, num_sessions) * self._slower(line) * line.ratio

    @property
    def is_in_doubt(self) -> bool:
        """What was observed last is a hiccup or the beginning of a change."""
        return any(line.is_in_doubt for line in self._lines.values())

    def fade(self) -> None:
        """For a second nothing was observed."""
        self._followed += (1.0 - self._followed) * RECOVERED
        for line in self._lines.values():
            line.fade()

    def state(self) -> tuple[BatchState, ...]:
        """Everything known."""
        return tuple(
            BatchState(
                num_sessions,
                self._lines[num_sessions].state,
                tuple((*at, mean_us) for at, mean_us in points_us.items()),
            )
            for num_sessions, points_us in self._points_us.items()
        )

    def restore(self, batches: Iterable[BatchState]) -> None:
        """Takes what an earlier surface knew in place of what is here of the same."""
        for batch in batches:
            for size, context_tokens, mean_us in batch.points_us:
                self.profile(size, batch.num_sessions, context_tokens, mean_us)
            self._lines[batch.num_sessions] = Line(batch.line)
        self._nearest_lines.clear()

    def _slower(self, line: Line) -> float:
        """By how many times all takes longer than the line says."""
        return max(1.0, self._followed / line.over_usual) if self._followed > SLOWER else 1.0

    def _nearest(self, num_sessions: int) -> Line:
        found = self._nearest_lines.get(num_sessions)
        if found is None:
            nearest = min(self._lines, key=lambda known: abs(known - num_sessions))
            found = self._nearest_lines[num_sessions] = self._lines[nearest]
        return found

    def profiled_us(self, size: float, num_sessions: int, context_tokens: float) -> float:
        """As the profile has it, whatever has been observed since."""
        more_us = self._beyond_shortest(context_tokens) * self._slopes_us.at(size, num_sessions)
        return self._times_us.at(size, num_sessions) + more_us

    def _beyond_shortest(self, context_tokens: float) -> float:
        return max(0.0, context_tokens - self._shortest_tokens)
