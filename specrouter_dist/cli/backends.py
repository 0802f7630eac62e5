"""The ways to a pool: started in this process or as Ray actors, or found running."""

from contextlib import ExitStack

from specrouter_dist.cli.options import BackendName
from specrouter_dist.pools.checks import PoolReport
from specrouter_dist.pools.loading import Pool
from specrouter_dist.serving.backend import PoolBackend
from specrouter_dist.serving.calibration import calibrate
from specrouter_dist.worker.openmp import set_spins


def open_backend(pool: Pool, report: PoolReport, backend: BackendName) -> PoolBackend:
    """Starts the pool, or finds it running; when it returns, it has decoded real tokens.

    torch and Ray are only imported here, where checked input gets.
    """
    opened = _open_local(pool, report) if backend is BackendName.LOCAL else _open_ray(pool, report)
    try:
        if opened.running.is_new:
            calibrate(pool, report, opened)
    except BaseException:
        opened.close()
        raise
    return opened


def find_backend(pool: Pool, report: PoolReport) -> PoolBackend:
    """The pool, which runs; it goes on running when the backend is closed.

    Raises:
        UnavailableError: it does not run.
    """
    from specrouter_dist.actors.finding import find_pool

    return PoolBackend(pool, report, find_pool(pool))


def _open_local(pool: Pool, report: PoolReport) -> PoolBackend:
    set_spins()
    from specrouter_dist.worker.local import LocalPool

    return PoolBackend(pool, report, LocalPool(pool, report))


def _open_ray(pool: Pool, report: PoolReport) -> PoolBackend:
    from specrouter_dist.actors.cluster import start_ray, stop_ray
    from specrouter_dist.actors.placing import check_placeable
    from specrouter_dist.actors.pool import RunningPool
    from specrouter_dist.actors.starting import start_or_find

    with ExitStack() as stack:
        if start_ray():
            stack.callback(stop_ray)
            check_placeable(pool)
        running = RunningPool(start_or_find(pool, report, detached=False))
        with ExitStack() as loading:
            loading.callback(running.close)
            running.wait_for_drafters()
            loading.pop_all()
        return PoolBackend(pool, report, running, stack.pop_all().close)
