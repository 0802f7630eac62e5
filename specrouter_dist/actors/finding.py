"""Pools that run already; nothing here starts one."""

from typing import Any

from specrouter_dist.actors.cluster import join_ray
from specrouter_dist.actors.pool import RunningPool
from specrouter_dist.actors.router_client import RouterClient
from specrouter_dist.actors.starting import PoolActors, ask_spec, named_router
from specrouter_dist.errors import UnavailableError
from specrouter_dist.pools.loading import Pool


def find_router(pool: Pool) -> RouterClient:
    """The router of ``pool``, which runs.

    Raises:
        UnavailableError: no such pool runs in the cluster, or there is no cluster.
    """
    return RouterClient(_running_router(pool))


def find_pool(pool: Pool) -> RunningPool:
    """The actors of ``pool``, which run.

    Raises:
        UnavailableError: as :func:`find_router`, or its configuration is another.
    """
    _join(pool)
    return RunningPool(find_actors(pool))


def find_actors(pool: Pool) -> PoolActors:
    """Those of ``pool`` in the cluster that this process is in; some may still be loading.

    Raises:
        UnavailableError: no such pool runs, or its configuration is another.
    """
    router = _named_router(pool)
    spec = ask_spec(router)
    if spec.config_hash != pool.config_hash:
        raise UnavailableError(
            f"a pool {pool.config.name!r} of other members, settings or model files runs; give "
            "the --pool and --dtype that it was started with"
        )
    return PoolActors(router, spec)


def end_pool(pool: Pool) -> None:
    """Ends the actors of ``pool``, whoever has started them.

    Raises:
        UnavailableError: as :func:`find_router`.
    """
    router = _running_router(pool)
    PoolActors(router, ask_spec(router)).stop()


def _running_router(pool: Pool) -> Any:
    _join(pool)
    return _named_router(pool)


def _join(pool: Pool) -> None:
    try:
        # Also a cluster that another process has started for itself.
        join_ray(address="auto")
    except ConnectionError:
        problem = f"no Ray cluster runs on this machine; {_how_to_start(pool)}"
        raise UnavailableError(problem) from None


def _named_router(pool: Pool) -> Any:
    router = named_router(pool.config.name)
    if router is None:
        raise UnavailableError(f"no pool {pool.config.name!r} runs; {_how_to_start(pool)}")
    return router


def _how_to_start(pool: Pool) -> str:
    return f"start it with: specrouter serve --pool {pool.config.name}"
