"""A pool's actors: found in the cluster, or started there."""

import secrets
import time
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import ActorAlreadyExistsError, RayActorError

from specrouter_dist.actors.registry import (
    NAMESPACE,
    START_TIMEOUT_S,
    PoolSpec,
    end_strays,
    find_workers,
    router_name,
    start_worker,
)
from specrouter_dist.actors.router_actor import RouterActor
from specrouter_dist.actors.state_file import state_directory
from specrouter_dist.actors.worker_actor import WorkerSpec
from specrouter_dist.config import DEFAULT_LOG_FORMAT, LogFormat
from specrouter_dist.pools.checks import PoolReport
from specrouter_dist.pools.loading import Pool, lookup_members, model_members

HOP_US = 500.0
"""Assumed for a round trip between two workers until it has been observed."""
_LOOK_AGAIN_S = 0.5
_STOP_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class PoolActors:
    """Those of one pool; they may still be loading."""

    router: Any
    spec: PoolSpec
    """What they were started with."""
    is_new: bool = False
    """Whether they were started just now and nobody has used them yet."""
    owned: tuple[Any, ...] = ()
    """Workers that end with this object, and the router and all others with them; Ray ends an
    actor of which its process holds no handle. Empty: the pool goes on."""

    def stop(self) -> None:
        """Ends them all: in order where they still answer, by force where not."""
        actors = [self.router, *find_workers(self.spec).values()]
        calls = [actor.stop.remote() for actor in actors]
        ray.wait(calls, num_returns=len(calls), timeout=_STOP_TIMEOUT_S)
        for actor in actors:
            ray.kill(actor)


def start_or_find(
    pool: Pool,
    report: PoolReport,
    *,
    detached: bool,
    log_format: LogFormat = DEFAULT_LOG_FORMAT,
) -> PoolActors:
    """Those that run if they are of the same configuration, else new ones. Waits for none.

    Args:
        pool: with all directories resolved.
        report: of its checks.
        detached: the actors outlive this process, for others to find.
        log_format: of actors that are started.
    """
    while True:
        router = named_router(pool.config.name)
        if router is not None:
            spec = _spec_of_running(router)
            if spec is None:
                continue
            found = PoolActors(router, spec)
            if spec.config_hash == pool.config_hash:
                return found
            found.stop()
        spec = _spec_of(pool, report, log_format)
        lifetime = "detached" if detached else None
        try:
            router = _start_router(spec, lifetime)
        except ActorAlreadyExistsError:
            # Another process was first: its pool is looked at.
            continue
        return _start_workers(router, spec, lifetime)


def named_router(pool: str) -> Any | None:
    """The actor that routes the pool of that name in the cluster, if there is one."""
    try:
        return ray.get_actor(router_name(pool), NAMESPACE)
    except ValueError:
        return None


def ask_spec(router: Any) -> PoolSpec:
    """What does not change of the pool that ``router`` routes."""
    spec: PoolSpec = ray.get(router.spec.remote(), timeout=START_TIMEOUT_S)
    return spec


def _spec_of_running(router: Any) -> PoolSpec | None:
    """None: it has ended, with the process that it was started by, or it starts again."""
    try:
        return ask_spec(router)
    except RayActorError:
        time.sleep(_LOOK_AGAIN_S)
        return None


def _spec_of(pool: Pool, report: PoolReport, log_format: LogFormat) -> PoolSpec:
    secret = secrets.token_bytes(32)
    workers = {
        member.name: WorkerSpec.of(member, pool, report, secret, log_format)
        for member in model_members(pool)
    }
    return PoolSpec(
        name=pool.config.name,
        config_hash=pool.config_hash,
        secret=secret,
        life=secrets.token_hex(4),
        workers=workers,
        lookups={member.name: member for member in lookup_members(pool)},
        log_format=log_format,
    )


def _start_router(spec: PoolSpec, lifetime: str | None) -> Any:
    """Its name is what a pool is claimed by.

    Raises:
        ActorAlreadyExistsError: there is one.
    """
    return (
        ray.remote(RouterActor)
        .options(
            name=router_name(spec.name),
            namespace=NAMESPACE,
            lifetime=lifetime,
            num_cpus=0,
            max_restarts=-1,
        )
        .remote(spec, HOP_US, state_directory())
    )


def _start_workers(router: Any, spec: PoolSpec, lifetime: str | None) -> PoolActors:
    """The target first: requests need it, and Ray starts few processes at a time."""
    try:
        end_strays(spec)
        names = reversed(list(spec.workers))
        workers = [start_worker(spec, name, lifetime=lifetime) for name in names]
        # It may have looked before they were there.
        router.look_for_workers.remote()
    except BaseException:
        PoolActors(router, spec).stop()
        raise
    owned = tuple(workers) if lifetime is None else ()
    return PoolActors(router, spec, is_new=True, owned=owned)
