"""A short start-up profile: how long forwards of a few sizes take on this device."""

import statistics
import time
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from specrouter_dist.config import SamplingParams
from specrouter_dist.engine.interface import Engine, Extension
from specrouter_dist.errors import NoRoomError
from specrouter_dist.routing.observations import ForwardKey, ForwardTimes, Observations
from specrouter_dist.speculation.messages import TOKEN_TYPECODE

_CONTEXT_TOKENS = 64
_GREEDY = SamplingParams(temperature=0.0, max_tokens=64)


@dataclass(frozen=True, slots=True)
class _Grid:
    """The kinds of steps that are timed with so many sessions in the batch."""

    num_sessions: int
    rows: Sequence[int]
    """Per session."""
    drafts: Sequence[int]
    warm_up: int
    repeats: int


_GRIDS = (
    _Grid(1, (1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 16, 17), (1, 3, 7, 15), warm_up=3, repeats=7),
    _Grid(4, (1, 3, 5, 9), (1, 3, 7), warm_up=1, repeats=3),
    _Grid(16, (1, 3, 5, 9), (1, 3, 7), warm_up=1, repeats=3),
)
_ROOM = 18
"""Positions behind the context that the largest kinds need."""
_BATCHES_BUDGET_S = 10.0
"""Batches are left out where they would take longer than this."""


def profile(name: str, engine: Engine, *, drafts: bool, threads: int = 1) -> Observations:
    """Times greedy steps of sessions of ``_CONTEXT_TOKENS`` tokens, their kinds interleaved.

    ``drafts``: also blocks of several tokens, drawn one after the other.
    """
    engine.set_threads(threads)
    observations = Observations(is_profile=True)
    step_s = 0.0
    for grid in _GRIDS:
        num_steps = (grid.warm_up + grid.repeats) * len(grid.rows) * 3
        if step_s * grid.num_sessions * num_steps > _BATCHES_BUDGET_S:
            break
        with _sessions(engine, grid.num_sessions) as slots:
            if len(slots) < grid.num_sessions:
                break
            for (rows, num_drafts), times_us in _time(engine, slots, grid, drafts).items():
                key = ForwardKey(name, rows * len(slots), len(slots), num_drafts)
                observations.forwards[key] = ForwardTimes(1, statistics.median(times_us))
                step_s = step_s or statistics.median(times_us) / 1e6
    return observations


@contextmanager
def _sessions(engine: Engine, count: int) -> Iterator[list[int]]:
    """Slots of up to ``count`` sessions that have been fed a context."""
    context = _context_tokens(engine)
    slots: list[int] = []
    try:
        for _ in range(min(count, engine.info.max_sessions)):
            slots.append(engine.open(_GREEDY, context, context + _ROOM))
            engine.extend([Extension(slots[-1], 0, array(TOKEN_TYPECODE, [0] * context), 1)])
    except NoRoomError:
        pass
    try:
        yield slots
    finally:
        for slot in slots:
            engine.close(slot)


def _time(
    engine: Engine, slots: Sequence[int], grid: _Grid, drafts: bool
) -> dict[tuple[int, int], list[float]]:
    """Times in microseconds by rows per session and further drafts."""
    context = _context_tokens(engine)
    kinds = [(rows, 0) for rows in grid.rows]
    if drafts:
        kinds += [(1, num_drafts) for num_drafts in grid.drafts]
    samples: dict[tuple[int, int], list[float]] = {kind: [] for kind in kinds}
    for repeat in range(grid.warm_up + grid.repeats):
        for rows, num_drafts in kinds:
            tokens = array(TOKEN_TYPECODE, [0] * rows)
            num_picks = 1 if num_drafts else rows
            batch = [Extension(slot, context, tokens, num_picks, num_drafts) for slot in slots]
            started = time.perf_counter()
            engine.extend(batch)
            if repeat >= grid.warm_up:
                samples[rows, num_drafts].append((time.perf_counter() - started) * 1e6)
    return samples


def _context_tokens(engine: Engine) -> int:
    return min(_CONTEXT_TOKENS, engine.info.context_tokens - _ROOM)
