"""How many CPU threads a member's forwards have."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

_TRIED_TIMES = 4
"""Each number of threads in a trial."""
_FIRST_PAUSE, _LONGEST_PAUSE = 32, 1024
"""Forwards between two trials: twice as many whenever nothing has changed."""
ENOUGH_GAIN = 1.1
"""More threads have to save so much: others may want the cores."""
_MEMORY = 64.0
"""Forwards that count, of each number."""


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
class _Mean:
    """Of what forwards take. Not a median: a thread that now and then waits for a core costs what
    all of them take together."""

    us: float = 0.0
    weight: float = 0.0

    def add(self, us: float) -> None:
        self.weight = min(self.weight + 1, _MEMORY)
        self.us += (us - self.us) / self.weight


@dataclass(slots=True)
class _Choice:
    """For one kind of forwards."""

    numbers: Sequence[int]
    chosen: int
    was_trial: bool = False
    _means: dict[int, _Mean] = field(default_factory=dict)
    _trial: list[int] = field(default_factory=list)
    """Numbers still to be tried, the next one last."""
    _num_left: int = _FIRST_PAUSE
    """Forwards until the next trial."""
    _pause: int = _FIRST_PAUSE

    def next(self) -> int:
        return self._trial[-1] if self._trial else self.chosen

    def note(self, elapsed_us: float) -> None:
        number = self.next()
        self.was_trial = number != self.chosen
        self._means.setdefault(number, _Mean()).add(elapsed_us)
        if self._trial:
            self._trial.pop()
            if self._trial:
                return
            self._pause = min(2 * self._pause, _LONGEST_PAUSE)
            self._num_left = self._pause
        else:
            self._num_left -= 1
        self._choose()
        if self._num_left <= 0:
            self._trial = self._turns()

    def _turns(self) -> list[int]:
        """The present number and those next to it; there and back, since requests may take turns,
        too."""
        at = self.numbers.index(self.chosen)
        near = list(self.numbers[max(0, at - 1) : at + 2])
        return (near + near[::-1]) * (_TRIED_TIMES // 2)

    def _choose(self) -> None:
        known_us = {n: mean.us for n, mean in self._means.items() if mean.weight >= _TRIED_TIMES}
        if self.chosen not in known_us:
            return
        present_us = known_us[self.chosen]
        better = [
            number
            for number, us in known_us.items()
            if us * (ENOUGH_GAIN if number > self.chosen else 1.0) < present_us
        ]
        if better:
            # What it is left for may be over soon: the next trial tells.
            del self._means[self.chosen]
            self.chosen = min(better, key=known_us.__getitem__)
            self._pause = self._num_left = _FIRST_PAUSE
            self._trial.clear()
