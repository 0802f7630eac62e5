"""How long steps of a member take: the shape from a profile, the level from what is observed.

A step in a chain is slower than the same step in a profile's loop, because the caches have gone
cold or the core was asleep, and it is only observed at the sizes that the present plan uses. So
what is observed scales the whole curve; otherwise sizes that are not used would look fast for
ever, and the planner would chase them.
"""

import bisect

from specrouter_dist.routing.observations import ForwardKey, ForwardTimes, WaitKey

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


class _Mean:
    """A decayed mean that begins with a prior."""

    def __init__(self, prior: float) -> None:
        self._mean = prior
        self._weight = _PROFILE_STEPS

    def observe(self, mean: float, count: int) -> None:
        total = self._weight + count
        self._mean += (mean - self._mean) * count / total
        self._weight = min(total, _MEMORY_STEPS)

    @property
    def value(self) -> float:
        return self._mean


class LatencyTable:
    """Times by member: of a forward by its rows, and of drafting by the tokens drawn.

    A drafter pays once per block for being called, so the time of a block is no multiple of the
    time of a token.

    Args:
        hop_us: what a round pays for crossing from one worker to the next and back, until it has
            been observed.
    """

    def __init__(self, hop_us: float) -> None:
        self._forwards: dict[str, _Curve] = {}
        self._drafting: dict[str, _Curve] = {}
        # How much longer a verify takes while the next block is being drafted: cores of one
        # machine may share caches, memory and even arithmetic units.
        self._slowdown: dict[str, _Mean] = {}
        self._hop_prior_us = hop_us
        self._hops: dict[tuple[str, str], _Mean] = {}

    def profile(self, key: ForwardKey, times: ForwardTimes) -> None:
        """Takes a point of a member's start-up profile."""
        for curve, size in self._curves(key):
            curve.profile(size, times.total_us / times.count)

    def observe(self, key: ForwardKey, times: ForwardTimes) -> None:
        """Takes the times of steps since the last call; those of batches are left out."""
        if key.num_sessions != 1 or not times.count:
            return
        if not key.overlapped:
            for curve, size in self._curves(key):
                curve.observe(size, times)
        elif (alone_us := self.forward_us(key.member, key.num_rows)) is not None:
            slowdown = self._slowdown.setdefault(key.member, _Mean(1.0))
            slowdown.observe(times.total_us / times.count / alone_us, times.count)

    def observe_wait(self, key: WaitKey, times: ForwardTimes) -> None:
        """Takes waits for blocks: what they last beyond the drafting is the hop."""
        block_us = self.drafting_us(key.draft, key.num_proposals)
        if block_us is not None and times.count:
            hop = self._hops.setdefault((key.draft, key.verifier), _Mean(self._hop_prior_us))
            hop.observe(max(0.0, times.total_us / times.count - block_us), times.count)

    def hop_us(self, draft: str, verifier: str) -> float:
        """What a round pays for crossing between the two, there and back."""
        hop = self._hops.get((draft, verifier))
        return self._hop_prior_us if hop is None else hop.value

    def forward_us(self, member: str, num_rows: int, *, overlapped: bool = False) -> float | None:
        """Time of a forward of ``num_rows``, in microseconds; None if the member is unknown.

        ``overlapped``: while its drafter drafts the next block.
        """
        curve = self._forwards.get(member)
        alone_us = curve.at(num_rows) if curve else None
        if alone_us is None or not overlapped or member not in self._slowdown:
            return alone_us
        return alone_us * self._slowdown[member].value

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
