"""How long the steps of one member take: of forwards by their rows, and of drafting by the tokens
drawn.

A drafter pays once per block for being called, so the time of a block is no multiple of the time of
a token. Both are of one member on one device: what slows one slows the other, so one that is hardly
observed follows the other. And a pause of the machine shows in many kinds of steps of one report,
so a report is judged once on each line.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from specrouter_dist.routing.line import Line, Steps
from specrouter_dist.routing.observations import ForwardKey, ForwardTimes
from specrouter_dist.routing.surface import Surface

_DRAFTING_ROWS = 4
"""A step that draws several tokens feeds no more than the tail of its stream. One that draws none
behind its picks is a block of one token if it feeds one; of more it may be a verify."""
_LEAST_SHARE = 0.1
"""Of a report's steps, for those on one line to tell of a change. A request's first step, for one,
is made with cold caches."""

Report = Sequence[tuple[ForwardKey, ForwardTimes]]
"""Steps of one member since it was last asked."""


class _Placed(NamedTuple):
    """Steps of one kind, on a line of a surface."""

    surface: Surface
    num_sessions: int
    line: Line
    steps: Steps


class MemberTimes:
    """Times of one member's steps, as profiled and as observed since."""

    def __init__(self) -> None:
        self.forwards = Surface()
        self.drafting = Surface()

    @property
    def is_in_doubt(self) -> bool:
        """What was observed last is a hiccup or the beginning of a change."""
        return self.forwards.is_in_doubt or self.drafting.is_in_doubt

    def profile(self, key: ForwardKey, mean_us: float) -> None:
        """Takes a point of the start-up profile."""
        for surface, size in self._surfaces(key):
            surface.profile(int(size), key.num_sessions, key.context_tokens, mean_us)

    def observe(self, report: Report) -> float:
        """Takes a report. Returns by what factor the member's times have changed, where it shows in
        most steps: 1.0, or one far from it."""
        placed = list(self._placed(report))
        by_line: dict[Line, list[Steps]] = {}
        for each in placed:
            by_line.setdefault(each.line, []).append(each.steps)
        enough = _LEAST_SHARE * sum(times.count for _, times in report)
        changes: list[tuple[float, float]] = []
        for line, steps in by_line.items():
            count = sum(each.num_steps for each in steps)
            if count < enough:
                line.add(steps)
            elif (factor := line.observe(steps)) != 1.0:
                changes.append((count, factor))
        self._follow(placed)
        _, most_seen = max(changes, default=(0.0, 1.0))
        return most_seen

    def fade(self) -> None:
        """For a second nothing was observed."""
        self.forwards.fade()
        self.drafting.fade()

    def _placed(self, report: Report) -> Iterator[_Placed]:
        for key, times in report:
            for surface, size in self._surfaces(key):
                line = surface.line(key.num_sessions)
                if line is not None:
                    profiled_us = surface.profiled_us(size, key.num_sessions, key.context_tokens)
                    steps = Steps(profiled_us, times.total_us, times.count)
                    yield _Placed(surface, key.num_sessions, line, steps)

    def _follow(self, placed: Sequence[_Placed]) -> None:
        """A surface of which hardly any steps were observed follows the other."""
        for surface, other in ((self.forwards, self.drafting), (self.drafting, self.forwards)):
            count, others = (
                sum(each.steps.num_steps for each in placed if each.surface is of)
                for of in (surface, other)
            )
            if count >= _LEAST_SHARE * others:
                surface.lead()
            else:
                of_other = (each for each in placed if each.surface is other)
                most = max(of_other, key=lambda each: each.steps.num_steps)
                surface.follow(other, most.num_sessions)

    def _surfaces(self, key: ForwardKey) -> list[tuple[Surface, float]]:
        """Those that steps of this kind are of, and their size there."""
        size = key.num_rows / key.num_sessions
        surfaces: list[tuple[Surface, float]] = []
        if not key.num_drafts:
            surfaces.append((self.forwards, size))
        if size <= (_DRAFTING_ROWS if key.num_drafts else 1):
            surfaces.append((self.drafting, 1.0 + key.num_drafts))
        return surfaces
