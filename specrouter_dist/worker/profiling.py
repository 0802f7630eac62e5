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
_REPEATS = 7
_WARM_UP = 3
_WEIGHT = 5
"""The profile counts as so many forwards: what is observed later soon outweighs it."""


def profile(name: str, engine: Engine) -> Observations:
    """Times forwards of a session of ``_CONTEXT_TOKENS`` tokens, greedy, row counts interleaved."""
    sampling = SamplingParams(temperature=0.0, max_tokens=64)
    context = min(_CONTEXT_TOKENS, engine.info.context_tokens - max(_ROWS))
    slot = engine.open(sampling, context, context + max(_ROWS))
    samples: dict[int, list[float]] = {rows: [] for rows in _ROWS}
    try:
        engine.extend([Extension(slot, 0, array(TOKEN_TYPECODE, [0] * context), 1)])
        for repeat in range(_WARM_UP + _REPEATS):
            for rows in _ROWS:
                extension = Extension(slot, context, array(TOKEN_TYPECODE, [0] * rows), rows)
                started = time.perf_counter()
                engine.extend([extension])
                if repeat >= _WARM_UP:
                    samples[rows].append((time.perf_counter() - started) * 1e6)
    finally:
        engine.close(slot)
    observations = Observations()
    for rows, times in samples.items():
        median_us = statistics.median(times)
        observations.forwards[ForwardKey(name, rows, 1)] = ForwardTimes(
            _WEIGHT, median_us * _WEIGHT, min(times)
        )
    return observations
