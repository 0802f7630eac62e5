"""OpenMP's threads in a process whose forwards come from one thread, the engine's.

libgomp lets a thread that waits for work spin for a while, but hardly at all once the process has
more of its threads than the machine has CPUs; and every thread that ever ran a parallel operation
keeps a team of its own. Then each operation wakes sleeping threads: a forward on two cores with a
second team in the process takes 9.0 ms, without one 4.9, with one thread 6.4 (the embedded
target). So what comes before the engine thread is done by threads that end, and their teams with
them.
"""

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

_SPIN_VARIABLE, _SPINS = "GOMP_SPINCOUNT", "10000"
"""Tens of microseconds, as long as what lies between two operations: the default of milliseconds
keeps others from the cores."""

Result = TypeVar("Result")


def set_spins() -> None:
    """Unless the user has. libgomp reads it when torch is imported."""
    os.environ.setdefault(_SPIN_VARIABLE, _SPINS)


def call_apart(function: Callable[[], Result]) -> Result:
    """What it returns, called on a thread that ends with it; whoever interrupts the caller does not
    wait for it."""
    called: Future[Result] = Future()

    def call() -> None:
        try:
            called.set_result(function())
        except BaseException as error:  # noqa: BLE001 - the caller raises it
            called.set_exception(error)

    thread = threading.Thread(target=call, name="load", daemon=True)
    thread.start()
    result = called.result()
    thread.join()
    return result
