"""Hiccups of a machine, and changes of it: what is far from what is known is believed if the next
value is far on the same side."""

from enum import Enum, auto

_FAR = 2.0
"""Values that differ by this factor from what is known are a hiccup or a change."""
_FADED = 1 / 500
"""Share of the longest time that is forgotten with each that is shorter."""


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

    def judge(self, factor: float) -> tuple[Judgement, float]:
        """Takes the next value, over what is known. Returns what it is, and what to believe if it
        is a change: the one nearer to what was known. The first may be of a time that was half over
        when things changed, and hiccups are of any length."""
        before, self._far = self._far, None
        if 1 / _FAR <= factor <= _FAR:
            return Judgement.USUAL, factor
        if before is None or (before > 1) is not (factor > 1):
            self._far = factor
            return Judgement.HICCUP, factor
        return Judgement.CHANGE, (min if factor > 1 else max)(factor, before)


class Lateness:
    """Notices at once that times have become far longer: some are usual, of whatever length."""

    def __init__(self) -> None:
        self._longest = 0.0
        self._is_late = False

    def is_change(self, time: float, *, is_usual: bool) -> bool:
        """Whether this one and the one before were far longer than any had been lately.

        ``is_usual``: if it is not longer, it tells how long they are.
        """
        if not self._longest:
            self._longest = time if is_usual else 0.0
            return False
        was_late, self._is_late = self._is_late, time > _FAR * self._longest
        if not self._is_late:
            self._longest *= 1 - _FADED
            self._longest = max(time, self._longest) if is_usual else self._longest
        elif was_late:
            self._longest, self._is_late = time, False
            return True
        return False
