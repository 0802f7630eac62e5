"""A short start-up profile: how long forwards of a few sizes take on this device."""

import statistics
import time
from array import array

from specrouter_dist.config import SamplingParams
from specrouter_dist.engine.interface import Engine, Extension
from specrouter_dist.routing.observations import ForwardKey, ForwardTimes, Observations
from specrouter_dist.speculation.messages import TOKEN_TYPECODE

_CONTEXT_TOKENS = 64
_ROWS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 16, 17)
_DRAFTS = (1, 3, 7, 15)
_REPEATS = 7
_WARM_UP = 3


def profile(name: str, engine: Engine, *, drafts: bool, threads: int = 1) -> Observations:
    """Times steps of a session of ``_CONTEXT_TOKENS`` tokens, greedy, their kinds interleaved.

    ``drafts``: also blocks of several tokens, drawn one after the other.
    """
    engine.set_threads(threads)
    kinds = [(rows, 0) for rows in _ROWS]
    if drafts:
        kinds += [(1, num_drafts) for num_drafts in _DRAFTS]
    room = 1 + max(*_ROWS, *_DRAFTS)
    context = min(_CONTEXT_TOKENS, engine.info.context_tokens - room)
    slot = engine.open(SamplingParams(temperature=0.0, max_tokens=64), context, context + room)
    samples: dict[tuple[int, int], list[float]] = {kind: [] for kind in kinds}
    try:
        engine.extend([Extension(slot, 0, array(TOKEN_TYPECODE, [0] * context), 1)])
        for repeat in range(_WARM_UP + _REPEATS):
            for rows, num_drafts in kinds:
                tokens = array(TOKEN_TYPECODE, [0] * rows)
                num_picks = 1 if num_drafts else rows
                extension = Extension(slot, context, tokens, num_picks, num_drafts)
                started = time.perf_counter()
                engine.extend([extension])
                if repeat >= _WARM_UP:
                    samples[rows, num_drafts].append((time.perf_counter() - started) * 1e6)
    finally:
        engine.close(slot)
    observations = Observations(is_profile=True)
    for (rows, num_drafts), times in samples.items():
        found = ForwardTimes(1, statistics.median(times))
        observations.forwards[ForwardKey(name, rows, 1, num_drafts)] = found
    return observations
