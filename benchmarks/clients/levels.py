"""Open sessions of every member of a pool that another process serves."""

from collections.abc import Iterator
from contextlib import contextmanager

import ray

from specrouter_dist.actors.cluster import stop_ray
from specrouter_dist.actors.finding import find_pool
from specrouter_dist.actors.pool import RunningPool
from specrouter_dist.actors.router_client import CALL_TIMEOUT_S
from specrouter_dist.pools.loading import Pool


class Levels:
    """The actors of a pool, to be asked what they hold."""

    def __init__(self, running: RunningPool) -> None:
        self._running = running

    def num_sessions(self) -> dict[str, int]:
        """By member, the parked ones too."""
        workers = self._running.workers
        calls = [worker.num_sessions.remote() for worker in workers.values()]
        return dict(zip(workers, ray.get(calls, timeout=CALL_TIMEOUT_S), strict=True))


@contextmanager
def levels_of(pool: Pool) -> Iterator[Levels]:
    """Joins the cluster that serves the pool."""
    running = find_pool(pool)
    try:
        yield Levels(running)
    finally:
        running.close()
        stop_ray()
