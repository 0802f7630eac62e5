"""A member becomes slower, and later as fast as before: when is it left, and taken again?

The process of the drafter that most requests use is stopped and continued every few milliseconds.
Left: from the slowdown to the first of five requests in a row that end on a chain without the
member; taken again likewise, from the recovery.
"""

import os
import signal
import statistics
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager

from specrouter_dist.actors.pool import RunningPool
from specrouter_dist.serving.results import GenerateResult

_RUN_S = 0.0005
"""Shorter than a block: how slow one is must not be chance."""
_IN_A_ROW = 5
_PATIENCE_S = 60.0
_SETTLE_REQUESTS = 40


@contextmanager
def slowed(pid: int, times_slower: float) -> Iterator[None]:
    """The process runs for one of so many parts of its time."""
    ended, stop_s = threading.Event(), _RUN_S * (times_slower - 1)

    def pulse() -> None:
        while not ended.is_set():
            os.kill(pid, signal.SIGSTOP)
            time.sleep(stop_s)
            os.kill(pid, signal.SIGCONT)
            time.sleep(_RUN_S)

    thread = threading.Thread(target=pulse)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        os.kill(pid, signal.SIGCONT)


def seconds_until(results: Iterator[GenerateResult], member: str, *, used: bool) -> float | None:
    """Until requests in a row use the member, or do not; None: they never do."""
    began, recent = time.monotonic(), deque[float](maxlen=_IN_A_ROW)
    for result in results:
        now = time.monotonic()
        if (member in result.chain) == used:
            recent.append(now)
        else:
            recent.clear()
        if len(recent) == _IN_A_ROW:
            return recent[0] - began
        if now - began > _PATIENCE_S:
            return None
    raise AssertionError("requests never end")


def measure(
    running: RunningPool, results: Iterator[GenerateResult], times: int, times_slower: float
) -> dict[str, object]:
    """One row per slowdown, and the medians.

    Args:
        results: of requests that run one after the other, for ever.
    """
    rows: list[dict[str, object]] = []
    for _ in range(times):
        used = Counter(next(results).chain for _ in range(_SETTLE_REQUESTS))
        usual = used.most_common(1)[0][0]
        member = next((m for m in reversed(usual[:-1]) if m in running.workers), None)
        if member is None:
            raise SystemExit(f"the router uses no model as a drafter: {dict(used)}")
        with slowed(running.pids()[member], times_slower):
            left_s = seconds_until(results, member, used=False)
        again_s = seconds_until(results, member, used=True)
        rows.append({"member": member, "left_after_s": left_s, "used_again_after_s": again_s})
    medians = {
        key: statistics.median(float(row[key] or _PATIENCE_S) for row in rows)  # type: ignore[arg-type]
        for key in ("left_after_s", "used_again_after_s")
    }
    return {"medians": medians, "rows": rows}
