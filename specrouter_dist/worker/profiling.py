"""A short start-up profile: how long forwards of a few sizes take on this device."""

import time
from array import array
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

from specrouter_dist.config import SamplingParams
from specrouter_dist.engine.interface import Engine, Extension
from specrouter_dist.errors import NoRoomError
from specrouter_dist.routing.observations import (
    ANY_DRAFTER,
    SHORTEST_CONTEXT,
    ForwardKey,
    ForwardTimes,
    Observations,
)
from specrouter_dist.speculation.messages import TOKEN_TYPECODE
from specrouter_dist.speculation.runs import run_tokens
from specrouter_dist.speculation.steps import MOST_BATCH_TOKENS
from specrouter_dist.worker.model_host import ModelHost
from specrouter_dist.worker.threads import ENOUGH_GAIN, Threads

_GREEDY = SamplingParams(temperature=0.0, max_tokens=64)
_SAMPLED = SamplingParams(temperature=0.8, max_tokens=64, seed=0)


class _Kind(NamedTuple):
    """A step of every session of a batch."""

    context_tokens: int
    rows: int
    """Per session."""
    num_drafts: int


@dataclass(frozen=True, slots=True)
class _Grid:
    """The kinds of steps that are timed with so many sessions in the batch."""

    num_sessions: int
    rows: Sequence[int]
    """Per session."""
    drafts: Sequence[int]
    warm_up: int
    repeats: int
    long_rows: Sequence[int] = ()
    long_drafts: Sequence[int] = ()
    """What is timed at a long context, too."""

    def kinds(self, context_tokens: int, drafts: bool) -> list[_Kind]:
        """At the short context."""
        return _kinds(context_tokens, self.rows, self.drafts if drafts else ())

    def long_kinds(self, context_tokens: int, drafts: bool) -> list[_Kind]:
        """At the long context."""
        return _kinds(context_tokens, self.long_rows, self.long_drafts if drafts else ())


def _kinds(context_tokens: int, rows: Sequence[int], drafts: Sequence[int]) -> list[_Kind]:
    kinds = [_Kind(context_tokens, num_rows, 0) for num_rows in rows]
    return kinds + [_Kind(context_tokens, 1, num_drafts) for num_drafts in drafts]


_GRIDS = (
    _Grid(
        1,
        (1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 16, 17),
        (1, 3, 7, 15),
        warm_up=3,
        repeats=7,
        long_rows=(1, 9),
        long_drafts=(7,),
    ),
    # Verifies of several sessions attend to as much as those of one each; blocks do not, since
    # the caches of several sessions are no one piece of memory.
    _Grid(4, (1, 3, 5, 9), (1, 3, 7), warm_up=1, repeats=3, long_drafts=(0, 7)),
    _Grid(16, (1, 3, 5, 9), (1, 3, 7), warm_up=1, repeats=3),
)
_THREADS_GRID = _Grid(1, (), (), warm_up=1, repeats=3)
_THREADS_TURNS = 3
_BESIDE_GRID = _Grid(1, (), (), warm_up=3, repeats=7)
_TRIED_BLOCK, _TRIED_DRAFTS = (5, 0), (1, 7)
"""Rows and drafts of the steps that decide on a number of threads."""
_ROOM = 18
"""Positions behind the context that the largest kinds need."""
_BATCHES_BUDGET_S = 10.0
"""Batches are left out where they would take longer than this."""
_LONG_TOKENS = 2048
_PREFILL_BUDGET_S = 1.0
"""The long context is shorter, or left out, where it would take longer than this to feed."""


def profile(name: str, engine: Engine, *, drafts: bool, threads: int = 1) -> Observations:
    """Times greedy steps of sessions of a short and a long context, their kinds interleaved.

    ``drafts``: also blocks of several tokens, drawn one after the other.
    """
    engine.set_threads(threads)
    observations = Observations(is_profile=True)
    short = min(SHORTEST_CONTEXT, engine.info.context_tokens - _ROOM)
    long = _long_context(engine, short)
    step_s = 0.0
    for grid in _GRIDS:
        num_steps = (grid.warm_up + grid.repeats) * len(grid.rows) * 3
        if step_s * grid.num_sessions * num_steps > _BATCHES_BUDGET_S:
            break
        long_kinds = grid.long_kinds(long, drafts) if long else []
        count = grid.num_sessions
        with (
            _sessions(engine, count, short) as slots,
            _sessions(engine, count if long_kinds else 0, long) as long_slots,
        ):
            if len(slots) < count:
                break
            timed = dict.fromkeys(grid.kinds(short, drafts), slots)
            if len(long_slots) == count:
                timed |= dict.fromkeys(long_kinds, long_slots)
            for kind, times_us in _time(engine, timed, grid).items():
                key = ForwardKey(
                    name,
                    kind.rows * count,
                    count,
                    kind.num_drafts,
                    context_tokens=kind.context_tokens,
                )
                # The fastest: what is observed later corrects the level but not the shape, where a
                # hiccup would stay.
                observations.forwards[key] = ForwardTimes(1, min(times_us))
                step_s = step_s or min(times_us) / 1e6
    else:
        _take_memory(engine, short)
    return observations


def fastest_threads(engine: Engine, most: int, *, drafts: bool) -> int:
    """How many CPU threads make a step of one session fastest, or hardly slower than more would;
    small models have little to share."""
    if most == 1:
        return 1
    counts = _numbers(most)
    context_tokens = min(SHORTEST_CONTEXT, engine.info.context_tokens - _ROOM)
    kind = _Kind(context_tokens, *(_TRIED_DRAFTS if drafts else _TRIED_BLOCK))
    times_us: dict[int, list[float]] = {count: [] for count in counts}
    with _sessions(engine, 1, context_tokens) as slots:
        if not slots:
            return 1
        for _ in range(_THREADS_TURNS):
            for count in counts:
                engine.set_threads(count)
                times_us[count] += _time(engine, {kind: slots}, _THREADS_GRID)[kind]
    enough_us = ENOUGH_GAIN * min(map(min, times_us.values()))
    return next(count for count in counts if min(times_us[count]) <= enough_us)


def _numbers(most: int) -> list[int]:
    """Of threads, to choose from."""
    return sorted({most, *(1 << i for i in range(most.bit_length()))})


def _draws_runs(engine: Engine, threads: int) -> bool:
    """Whether the model is so fast that by itself it draws several tokens in a step."""
    engine.set_threads(threads)
    context_tokens = min(SHORTEST_CONTEXT, engine.info.context_tokens - _ROOM)
    kind = _Kind(context_tokens, 1, 0)
    with _sessions(engine, 1, context_tokens) as slots:
        return (
            bool(slots) and run_tokens(min(_time(engine, {kind: slots}, _THREADS_GRID)[kind])) > 1
        )


def _take_memory(engine: Engine, context_tokens: int) -> None:
    """What the largest batches need is taken at the start, or found wanting there: under load the
    process would grow whenever a batch is the largest so far."""
    most = engine.info.max_sessions
    prompt = array(TOKEN_TYPECODE, [0] * context_tokens)
    block = array(TOKEN_TYPECODE, [0] * min(_ROOM, MOST_BATCH_TOKENS // most + 1))
    with _slots(engine, most, context_tokens, _SAMPLED) as slots:
        prompts = slots[: MOST_BATCH_TOKENS // context_tokens + 1]
        engine.extend([Extension(slot, 0, prompt, 1) for slot in prompts])
        engine.extend([Extension(slot, 0, block, len(block)) for slot in slots])


def profile_all(
    hosts: Sequence[ModelHost], *, own_threads: int, all_threads: int | None = None
) -> Observations:
    """Of all models of a worker, one after the other; each has its number of CPU threads then.

    Args:
        own_threads: most for a forward while another worker of the chain may compute.
        all_threads: most for one of the target, or of its slim members, while none does, tried
            again while requests run; None: as many as were fastest at the start.
    """
    observations = Observations(is_profile=True)
    for host in hosts:
        drafts = not host.is_target
        own = alone = fastest_threads(host.engine, own_threads, drafts=drafts)
        shared: list[int] = []
        # A drafter does not know when its verifier works.
        if all_threads is not None and (host.is_target or host.lives_in):
            shared = _numbers(all_threads)
            alone = fastest_threads(host.engine, all_threads, drafts=drafts)
        host.threads = Threads(own, shared, alone)
        drafts = drafts or _draws_runs(host.engine, alone)
        measured = profile(host.name, host.engine, drafts=drafts, threads=alone)
        observations.forwards |= measured.forwards
        if shared:
            observations.forwards |= _time_beside(host)
    return observations


def _time_beside(host: ModelHost) -> dict[ForwardKey, ForwardTimes]:
    """A verify with as many threads as it has while its drafter drafts ahead."""
    context_tokens = min(SHORTEST_CONTEXT, host.engine.info.context_tokens - _ROOM)
    kind = _Kind(context_tokens, *_TRIED_BLOCK)
    host.engine.set_threads(host.threads.own)
    with _sessions(host.engine, 1, context_tokens) as slots:
        if not slots:
            return {}
        times_us = _time(host.engine, {kind: slots}, _BESIDE_GRID)[kind]
    key = ForwardKey(host.name, kind.rows, 1, 0, ANY_DRAFTER, context_tokens)
    return {key: ForwardTimes(1, min(times_us))}


def _long_context(engine: Engine, short: int) -> int:
    """The longest that there is time for, beside the short one; 0 if it would hardly be longer."""
    with _sessions(engine, 1, short) as slots:
        if not slots:
            return 0
        # What is fed first also pays for the memory that it is the first to touch.
        started = time.perf_counter()
        _feed(engine, slots[0], short)
        token_s = (time.perf_counter() - started) / short
    most = min(_LONG_TOKENS, engine.info.context_tokens // 2, int(_PREFILL_BUDGET_S / token_s))
    return most if most >= 2 * short else 0


@contextmanager
def _sessions(engine: Engine, count: int, context_tokens: int) -> Iterator[list[int]]:
    """Slots of up to ``count`` greedy sessions that have been fed a context."""
    with _slots(engine, count, context_tokens, _GREEDY) as slots:
        for slot in slots:
            _feed(engine, slot, context_tokens)
        yield slots


@contextmanager
def _slots(
    engine: Engine, count: int, context_tokens: int, sampling: SamplingParams
) -> Iterator[list[int]]:
    """Slots of up to ``count`` sessions with room for a context."""
    slots: list[int] = []
    try:
        for _ in range(min(count, engine.info.max_sessions)):
            slots.append(engine.open(sampling, context_tokens, context_tokens + _ROOM))
    except NoRoomError:
        pass
    try:
        yield slots
    finally:
        for slot in slots:
            engine.close(slot)


def _feed(engine: Engine, slot: int, num_tokens: int) -> None:
    engine.extend([Extension(slot, 0, array(TOKEN_TYPECODE, [0] * num_tokens), 1)])


def _time(
    engine: Engine, timed: Mapping[_Kind, Sequence[int]], grid: _Grid
) -> dict[_Kind, list[float]]:
    """Times in microseconds; by kind, with its slots."""
    samples: dict[_Kind, list[float]] = {kind: [] for kind in timed}
    for repeat in range(grid.warm_up + grid.repeats):
        for kind, slots in timed.items():
            tokens = array(TOKEN_TYPECODE, [0] * kind.rows)
            num_picks = 1 if kind.num_drafts else kind.rows
            batch = [
                Extension(slot, kind.context_tokens, tokens, num_picks, kind.num_drafts)
                for slot in slots
            ]
            started = time.perf_counter()
            engine.extend(batch)
            if repeat >= grid.warm_up:
                samples[kind].append((time.perf_counter() - started) * 1e6)
    return samples
