"""How many CPU threads a member's forwards have."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf
from typing import NamedTuple

_TRIED_TIMES = 4
"""Each number of threads in a trial."""
_FIRST_PAUSE, _LONGEST_PAUSE = 32, 4096
"""Forwards between two trials: twice as many whenever nothing has changed."""
_ENOUGH_GAIN = 1.1
"""More threads have to save so much: others may want the cores."""
_LATE, _MOST_LATE = 1.5, 8
"""A trial comes at once when so many forwards in a row take so many times as long as usual."""


class Kind(NamedTuple):
    """Forwards whose times are comparable."""

    log2_rows: int
    num_drafts: int


def kind_of(num_rows: int, num_drafts: int) -> Kind:
    """``num_drafts``: drawn one after the other."""
    return Kind((num_rows - 1).bit_length(), num_drafts)


class Threads:
    """A member's own threads while its drafter may draft ahead, and else as many of the node's as
    make forwards fastest.

    How many those are depends on what else the node does, so it is tried while requests run.

    Args:
        own: while its upstream may draft ahead, on what may be the same cores.
        shared: numbers to choose from while none does, ascending; none: its own.
        first: of these, until another one has been found faster.
    """

    def __init__(self, own: int = 1, shared: Sequence[int] = (), first: int | None = None) -> None:
        self.own = own
        self.first = own if first is None else first
        self._shared = shared
        self._choices: dict[Kind, _Choice] = {}
        self._present: _Choice | None = None

    def begin(self, kind: Kind, *, is_alone: bool) -> int:
        """The number for the forward that begins."""
        self._present = None
        if not is_alone:
            return self.own
        if len(self._shared) < 2:
            return self.first
        self._present = self._choices.setdefault(kind, _Choice(self._shared, self.first))
        return self._present.next()

    def end(self, elapsed_us: float) -> None:
        """That forward took so long."""
        if self._present is not None:
            self._present.note(elapsed_us)

    @property
    def was_trial(self) -> bool:
        """The last forward had a number that is not the chosen one: its time says little."""
        return self._present is not None and self._present.was_trial


@dataclass(slots=True)
class _Choice:
    """For one kind of forwards."""

    numbers: Sequence[int]
    chosen: int
    was_trial: bool = False
    _tried: list[int] = field(default_factory=list)
    """The numbers of the present trial, by turns,"""
    _tried_us: list[float] = field(default_factory=list)
    """and what forwards took with them so far."""
    _num_left: int = _FIRST_PAUSE
    """Forwards until the next trial."""
    _pause: int = _FIRST_PAUSE
    _usual_us: float = inf
    _num_late: int = 0

    def next(self) -> int:
        if self._num_left:
            return self.chosen
        if not self._tried:
            self._tried = self._turns()
        return self._tried[len(self._tried_us)]

    def _turns(self) -> list[int]:
        """The present number and those next to it; there and back, since requests may take turns,
        too."""
        at = self.numbers.index(self.chosen)
        near = list(self.numbers[max(0, at - 1) : at + 2])
        return (near + near[::-1]) * (_TRIED_TIMES // 2)

    def note(self, elapsed_us: float) -> None:
        self.was_trial = not self._num_left and self.next() != self.chosen
        if self._num_left:
            self._num_left -= 1
            self._num_late = self._num_late + 1 if elapsed_us > _LATE * self._usual_us else 0
            if self._num_late == _MOST_LATE:
                self._num_left = 0
            return
        self._tried_us.append(elapsed_us)
        if len(self._tried_us) == len(self._tried):
            self._choose()

    def _choose(self) -> None:
        times_us: dict[int, list[float]] = {}
        for number, elapsed_us in zip(self._tried, self._tried_us, strict=True):
            times_us.setdefault(number, []).append(elapsed_us)
        medians_us = {number: statistics.median(times) for number, times in times_us.items()}
        enough_us = _ENOUGH_GAIN * min(medians_us.values())
        found = min(number for number, us in medians_us.items() if us <= enough_us)
        self._usual_us = medians_us[found]
        self._pause = min(2 * self._pause, _LONGEST_PAUSE) if found == self.chosen else _FIRST_PAUSE
        self.chosen, self._num_left, self._num_late = found, self._pause, 0
        self._tried, self._tried_us = [], []
