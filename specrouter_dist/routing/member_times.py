"""How long the steps of one member take: of forwards by their rows, and of drafting by the tokens
drawn.

A drafter pays once per block for being called, so the time of a block is no multiple of the time of
a token. Both are of one member on one device, so what changes it changes both: a report is judged
as a whole, and what was hardly observed follows what was.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from specrouter_dist.routing.doubt import Doubt, Judgement
from specrouter_dist.routing.line import Line
from specrouter_dist.routing.observations import ForwardKey, ForwardTimes
from specrouter_dist.routing.surface import Surface

_DRAFTING_ROWS = 4
"""A step that draws several tokens feeds no more than the tail of its stream. One that draws none
behind its picks is a block of one token if it feeds one; of more it may be a verify."""

Report = Sequence[tuple[ForwardKey, ForwardTimes]]
"""Steps of one member since it was last asked."""


class _Steps(NamedTuple):
    """Steps of one kind, and the line that they lie on."""

    line: Line
    profiled_us: float
    times: ForwardTimes

    @property
    def expected_us(self) -> float:
        """Of all of them, as the line has it. A prior is no evidence: what comes first is
        believed."""
        if not self.line.state.weight:
            return self.times.total_us
        return self.times.count * self.line.at(self.profiled_us)


class MemberTimes:
    """Times of one member's steps, as profiled and as observed since."""

    def __init__(self) -> None:
        self.forwards = Surface()
        self.drafting = Surface()
        self._doubt = Doubt()

    @property
    def is_in_doubt(self) -> bool:
        """What was observed last is a hiccup or the beginning of a change."""
        return self._doubt.is_open

    def profile(self, key: ForwardKey, mean_us: float) -> None:
        """Takes a point of the start-up profile."""
        for surface, size in self._surfaces(key):
            surface.profile(int(size), key.num_sessions, key.context_tokens, mean_us)

    def observe(self, report: Report) -> float:
        """Takes a report. Returns by what factor the member's times have changed: 1.0, or one far
        from it.

        A report that is far from what is known is a hiccup of the machine and counts as one step,
        unless the one before was, too: then things have changed.
        """
        steps = list(self._on_lines(report))
        if not steps:
            return 1.0
        judgement, factor = self._doubt.judge(_over_expected(steps))
        if judgement is Judgement.CHANGE:
            _change(steps, factor)
        else:
            _add(steps, is_hiccup=judgement is Judgement.HICCUP)
        self._follow(report)
        return factor if judgement is Judgement.CHANGE else 1.0

    def fade(self) -> None:
        """For a second nothing was observed."""
        self.forwards.fade()
        self.drafting.fade()

    def _on_lines(self, report: Report) -> Iterator[_Steps]:
        for key, times in report:
            for surface, size in self._surfaces(key):
                line = surface.line(key.num_sessions)
                if line is not None:
                    at = size, key.num_sessions, key.context_tokens
                    yield _Steps(line, surface.profiled_us(*at), times)

    def _follow(self, report: Report) -> None:
        """The surface of which fewer steps were observed follows the other."""
        num_forwards, num_drafting = (
            sum(times.count for key, times in report if surface in dict(self._surfaces(key)))
            for surface in (self.forwards, self.drafting)
        )
        more, fewer = self.forwards, self.drafting
        if num_forwards < num_drafting:
            more, fewer = fewer, more
        more.lead()
        fewer.lead()
        if num_forwards != num_drafting:
            most, _ = max(report, key=lambda timed: timed[1].count)
            fewer.follow(more, most.num_sessions)

    def _surfaces(self, key: ForwardKey) -> list[tuple[Surface, float]]:
        """Those that steps of this kind are of, and their size there."""
        size = key.num_rows / key.num_sessions
        surfaces: list[tuple[Surface, float]] = []
        if not key.num_drafts:
            surfaces.append((self.forwards, size))
        if size <= (_DRAFTING_ROWS if key.num_drafts else 1):
            surfaces.append((self.drafting, 1.0 + key.num_drafts))
        return surfaces


def _over_expected(steps: Sequence[_Steps]) -> float:
    return sum(each.times.total_us for each in steps) / sum(each.expected_us for each in steps)


def _add(steps: Sequence[_Steps], *, is_hiccup: bool) -> None:
    weight = 1.0 / sum(each.times.count for each in steps) if is_hiccup else 1.0
    for line, profiled_us, times in steps:
        line.add(profiled_us, times.total_us / times.count, weight * times.count)


def _change(steps: Sequence[_Steps], factor: float) -> None:
    """Every line by what was observed on it, but no further than is believed of the member."""
    by_line: dict[Line, list[_Steps]] = {}
    for each in steps:
        by_line.setdefault(each.line, []).append(each)
    for line, its_steps in by_line.items():
        if line.state.weight:
            nearer = (min if factor > 1 else max)(factor, _over_expected(its_steps))
            line.change(nearer, sum(each.times.count for each in its_steps))
        else:
            _add(its_steps, is_hiccup=False)
