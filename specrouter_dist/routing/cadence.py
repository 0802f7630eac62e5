"""When the router decides: soon after something has changed, the more seldom the longer nothing
has, since a decision takes time of cores that are there to compute tokens."""

_CALM_S = 2.0
_CALMEST_S = 4.0
"""Least and greatest time between decisions while nothing changes."""
_SHARE_OF_CALM = 0.125
"""Between them it is this share of the time for which nothing has changed."""


class Cadence:
    """Times of decisions, by the router's clock, which may be set back."""

    def __init__(self) -> None:
        self._is_urgent = True
        self._decided_s = 0.0
        self._changed_s = 0.0

    def hurry(self) -> None:
        """Something has changed that decisions depend on."""
        self._is_urgent = True

    def is_due(self, now_s: float) -> bool:
        """Whether to decide now."""
        calm_s = (self._decided_s - self._changed_s) * _SHARE_OF_CALM
        wait_s = min(max(calm_s, _CALM_S), _CALMEST_S)
        return self._is_urgent or not 0.0 <= now_s - self._decided_s < wait_s

    def decided(self, now_s: float, *, has_changed: bool) -> None:
        """``has_changed``: something was decided about requests that are there."""
        if has_changed or self._is_urgent or now_s < self._decided_s:
            self._changed_s = now_s
        self._is_urgent = False
        self._decided_s = now_s
