"""The router is killed, and Ray starts another one, which finds its snapshot or does not.

Requests go on one after the other meanwhile. How long is there no router, how many requests begin
with a plan that is predicted to be more than 3 % slower than the plan of before, by what was known
before, and after what time are five in a row as good again? None may fail, no text may differ from
the target's alone. ``undisturbed`` is the same without a kill: plans change by themselves, too.
"""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import ray

from benchmarks.known import Known, newer_snapshot, plan_of, snapshot_file
from benchmarks.regret import describe
from specrouter_dist.actors.pool import RunningPool
from specrouter_dist.actors.registry import NAMESPACE
from specrouter_dist.config import Plan
from specrouter_dist.errors import SpecRouterError, UnavailableError
from specrouter_dist.pools.loading import Pool
from specrouter_dist.routing.traffic import GREEDY
from specrouter_dist.serving.results import GenerateResult

_SETTLE_REQUESTS = 60
_IN_A_ROW = 5
_ASK_EVERY_S = 0.1

Judged = tuple[GenerateResult, bool]
"""A result, and whether its text is the target's."""


@dataclass(slots=True)
class Watch:
    """Requests since the kill."""

    usual: Plan
    """Before the kill."""
    known: Known
    """Likewise."""
    began_s: float = field(default_factory=time.monotonic)
    num_requests: int = 0
    num_failed: int = 0
    num_differing: int = 0
    num_on_slower_plans: int = 0
    num_on_other_chains: int = 0
    as_good_s: float | None = None
    """When the first of those in a row that still go on ended; None: the last was not."""
    _in_a_row: int = 0

    def add(self, request: Callable[[], Judged]) -> None:
        """One request."""
        self.num_requests += 1
        try:
            result, is_targets = request()
        except SpecRouterError:
            self.num_failed += 1
            return
        self.num_differing += not is_targets
        plan = plan_of(result.metrics.plans[0])
        self.num_on_other_chains += plan.chain != self.usual.chain
        if self.known.is_as_good(plan, self.usual):
            self._in_a_row += 1
            if self._in_a_row == 1:
                self.as_good_s = time.monotonic() - self.began_s
        else:
            self.num_on_slower_plans += 1
            self._in_a_row, self.as_good_s = 0, None

    def row(self) -> dict[str, object]:
        """For the report; five in a row count."""
        is_so = self._in_a_row >= _IN_A_ROW
        return {
            "num_requests": self.num_requests,
            "num_failed": self.num_failed,
            "num_differing": self.num_differing,
            "num_on_other_chains": self.num_on_other_chains,
            "num_on_slower_plans": self.num_on_slower_plans,
            "as_good_for_good_after_s": self.as_good_s if is_so else None,
        }


class RouterWatch:
    """Asks the router again and again, from its own thread, until it answers."""

    def __init__(self, running: RunningPool) -> None:
        self._running = running
        self._began_s = time.monotonic()
        self._ended = threading.Event()
        self.was_away = False
        self.back_after_s: float | None = None
        self._thread = threading.Thread(target=self._ask)
        self._thread.start()

    def close(self) -> None:
        """Ends asking."""
        self._ended.set()
        self._thread.join()

    def _ask(self) -> None:
        while not self._ended.wait(_ASK_EVERY_S):
            try:
                self._running.table()
            except UnavailableError:
                self.was_away = True
                continue
            if self.was_away:
                self.back_after_s = time.monotonic() - self._began_s
                return


def watch(
    running: RunningPool,
    pool: Pool,
    state: Path,
    requests: Iterator[Callable[[], Judged]],
    way: str,
    watched_s: float,
) -> dict[str, object]:
    """One row."""
    began = time.time()
    for _ in range(_SETTLE_REQUESTS):
        next(requests)()
    known = Known.read(pool, newer_snapshot(state, began))
    usual = running.table().plan(GREEDY)
    router_watch = RouterWatch(running)
    if way != "undisturbed":
        ray.kill(ray.get_actor(f"{pool.config.name}:router", NAMESPACE), no_restart=False)
    if way == "without snapshot":
        # Long before the next one is up.
        snapshot_file(state).unlink()
    seen = Watch(usual, known)
    while time.monotonic() - seen.began_s < watched_s:
        seen.add(next(requests))
    router_watch.close()
    return {
        "way": way,
        "plan": describe(usual),
        "router_back_after_s": router_watch.back_after_s,
        **seen.row(),
        "plan_at_the_end": describe(running.table().plan(GREEDY)),
    }


def measure(
    running: RunningPool,
    pool: Pool,
    state: Path,
    requests: Iterator[Callable[[], Judged]],
    times: int,
    watched_s: float,
) -> dict[str, object]:
    """A row per way and time, interleaved."""
    ways = ("undisturbed", "with snapshot", "without snapshot")
    return {
        "rows": [
            watch(running, pool, state, requests, way, watched_s)
            for _ in range(times)
            for way in ways
        ]
    }
