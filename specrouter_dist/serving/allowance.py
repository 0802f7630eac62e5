"""So much per minute: a bucket that fills evenly and from which requests take."""

from collections.abc import Callable

_MINUTE_S = 60.0


class Allowance:
    """Full at first; holds a minute's worth.

    Args:
        per_minute: what flows in, and the most it holds.
        clock: seconds.
    """

    def __init__(self, per_minute: int, clock: Callable[[], float]) -> None:
        self.per_minute = per_minute
        self._clock = clock
        self._level = float(per_minute)
        self._seen_s = clock()

    def wait_s(self, amount: int) -> float:
        """After how long so much can be taken; 0: now. At most a minute's worth."""
        missing = amount - self._filled()
        return max(0.0, missing * _MINUTE_S / self.per_minute)

    def take(self, amount: int) -> None:
        """Takes it; a negative amount is given back."""
        self._level = min(float(self.per_minute), self._filled() - amount)

    def _filled(self) -> float:
        now_s = self._clock()
        self._level += (now_s - self._seen_s) * self.per_minute / _MINUTE_S
        self._level = min(float(self.per_minute), self._level)
        self._seen_s = now_s
        return self._level
