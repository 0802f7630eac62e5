"""The two ways to run a pool: in this process, or as Ray actors."""

from specrouter_dist.cli.options import BackendName
from specrouter_dist.pools.checks import PoolReport
from specrouter_dist.pools.loading import Pool
from specrouter_dist.serving.backend import PoolBackend


def open_backend(pool: Pool, report: PoolReport, backend: BackendName) -> PoolBackend:
    """Starts the pool, or finds it running.

    torch and Ray are only imported here, where checked input gets.
    """
    if backend is BackendName.LOCAL:
        from specrouter_dist.worker.local import LocalPool

        return PoolBackend(pool, report, LocalPool(pool, report))
    from specrouter_dist.actors.pool import connect_pool, start_ray, stop_ray

    started = start_ray()
    try:
        running = connect_pool(pool, report, detached=False)
    except BaseException:
        if started:
            stop_ray()
        raise
    return PoolBackend(pool, report, running, stop_ray if started else None)
