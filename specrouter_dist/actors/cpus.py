"""The CPUs that the workers of a node share."""

import os
import time
from collections.abc import Callable
from pathlib import Path

_STAT = Path("/proc/stat")
_IDLE, _IO_WAIT = 4, 5
"""Columns of a CPU's line."""
_LEAST_S = 0.1
"""Over which is looked: what is counted are hundredths of seconds."""
_FREE = 0.75
"""Of one CPU: so much must have been idle."""


def own_cpus() -> set[int]:
    """Those that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def idle_s() -> float | None:
    """For how long they have been idle, all together; None: nobody says so here."""
    try:
        lines = _STAT.read_text().splitlines()
    except OSError:
        return None
    names = {f"cpu{number}" for number in own_cpus()}
    fields = (line.split() for line in lines)
    ticks = sum(int(f[_IDLE]) + int(f[_IO_WAIT]) for f in fields if f and f[0] in names)
    # Sandboxes have a file in which nothing is counted.
    return ticks / os.sysconf("SC_CLK_TCK") if ticks else None


class SharedCpus:
    """Whether one of them is free.

    Args:
        idle_s: for how long they have been idle; None: not known, then there always is one.
        clock: seconds.
    """

    def __init__(
        self,
        idle_s: Callable[[], float | None] = idle_s,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._idle_s = idle_s
        self._clock = clock
        self._at_s, self._before_s = clock(), idle_s()
        self._are_taken = False

    def are_taken(self) -> bool:
        """Whether no whole CPU was idle since the last look that was long enough ago."""
        now_s = self._clock()
        if now_s - self._at_s >= _LEAST_S:
            idle_s = self._idle_s()
            if idle_s is not None and self._before_s is not None:
                self._are_taken = idle_s - self._before_s < _FREE * (now_s - self._at_s)
            self._at_s, self._before_s = now_s, idle_s
        return self._are_taken
