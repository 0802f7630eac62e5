"""Hiccups of a machine, and changes of it: a value far from what is known is believed if the next
one says the same."""

from enum import Enum, auto

_FAR = 2.0
"""Values that differ by this factor from what is known are a hiccup or a change."""
_ALIKE = 1.5
"""Values that differ by less say the same."""


class Judgement(Enum):
    """What a new value is."""

    USUAL = auto()
    HICCUP = auto()
    """Or the beginning of a change."""
    CHANGE = auto()
    """What was known before does not hold any more."""


class Doubt:
    """Remembers the newest value if it was far from what was known."""

    def __init__(self) -> None:
        self._far: float | None = None

    @property
    def is_open(self) -> bool:
        """The next value tells whether the newest was a hiccup or the beginning of a change."""
        return self._far is not None

    def judge(self, value: float, known: float) -> Judgement:
        """Takes the next value."""
        is_far = _differ(value, known, _FAR)
        before, self._far = self._far, value if is_far else None
        if not is_far:
            return Judgement.USUAL
        if before is None or _differ(value, before, _ALIKE):
            return Judgement.HICCUP
        self._far = None
        return Judgement.CHANGE


def _differ(one: float, other: float, factor: float) -> bool:
    return max(one, other) > factor * min(one, other)
