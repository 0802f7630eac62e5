"""The pool supervisor: starts a pool's actors, or finds them running."""

import logging
import os
import secrets
import threading
import time
from collections.abc import Sequence
from typing import Any

import ray
from ray.exceptions import ActorAlreadyExistsError, GetTimeoutError, RayActorError

from specrouter_dist.actors.registry import (
    NAMESPACE,
    PoolSpec,
    end_strays,
    find_workers,
    router_name,
    start_worker,
)
from specrouter_dist.actors.router_actor import RouterActor
from specrouter_dist.actors.router_client import CALL_TIMEOUT_S, RouterClient
from specrouter_dist.actors.state_file import state_directory
from specrouter_dist.actors.waiting import START_TIMEOUT_S, wait_for_members
from specrouter_dist.actors.worker_actor import WorkerSpec
from specrouter_dist.config import DEFAULT_LOG_FORMAT, LogFormat
from specrouter_dist.errors import UnavailableError
from specrouter_dist.links.hub import Hub
from specrouter_dist.pools.checks import PoolReport
from specrouter_dist.pools.loading import Pool, lookup_members, model_members
from specrouter_dist.serving.link_client import LinkClient
from specrouter_dist.tracing.records import WorkerTrace
from specrouter_dist.worker.status import Status

logger = logging.getLogger(__name__)

HOP_US = 500.0
"""Assumed for a round trip between two workers until it has been observed."""
_WATCH_EVERY_S = 0.5
_LOOK_EVERY_S = 5.0
"""At least; every call costs the router some milliseconds."""
_STOP_TIMEOUT_S = 5.0
_TRACE_TIMEOUT_S = 30.0
"""A worker in a long forward answers behind it; a long trace is some megabytes."""
_OBJECT_STORE_BYTES = 100 * 1024 * 1024
"""Tokens do not travel through the object store."""


def start_ray() -> bool:
    """Connects to the running cluster, or starts one on this machine; whether it was started.

    Ray looks for ``RAY_ADDRESS`` and for a cluster of this machine before it starts one.
    """
    if ray.is_initialized():
        return False
    running = os.environ.get("RAY_ADDRESS") or os.path.exists("/tmp/ray/ray_current_cluster")
    if running:
        join_ray()
        return False
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    join_ray(include_dashboard=False, object_store_memory=_OBJECT_STORE_BYTES)
    return True


def join_ray(**options: Any) -> None:
    """``ray.init`` with what is the same whatever cluster it is."""
    # Ray logs before it reads its own setting.
    logging.getLogger("ray").setLevel(logging.ERROR)
    ray.init(namespace=NAMESPACE, log_to_driver=False, logging_level="error", **options)


def stop_ray() -> None:
    """Ends the cluster that :func:`start_ray` started."""
    ray.shutdown()


class RunningPool(RouterClient):
    """A pool's actors, and a client of its target in this process.

    Made by :func:`connect_pool`.

    Args:
        router: the pool's router.
        spec: what it was started with.
        is_new: whether it was started just now and nobody has used it yet.
        owned: workers that end with this object, and the router and all others with them; Ray
            ends an actor of which its process holds no handle. Empty: the pool goes on.
    """

    def __init__(
        self, router: Any, spec: PoolSpec, *, is_new: bool = False, owned: Sequence[Any] = ()
    ) -> None:
        super().__init__(router)
        self.is_new = is_new
        self._spec = spec
        self._owned = owned
        self._stopping = threading.Event()
        node = ray.get_runtime_context().get_node_id()
        hub = Hub(
            f"client-{secrets.token_hex(4)}",
            secrets.randbits(63),
            node,
            spec.secret,
            grpc_host=ray.util.get_node_ip_address(),
        )
        try:
            self.client = LinkClient(hub, wait_for_members(self, spec))
        except BaseException:
            hub.close()
            raise
        self._watcher = threading.Thread(target=self._watch, name="pool-watcher", daemon=True)
        self._watcher.start()

    def close(self) -> None:
        """Closes the client; ends the actors too if this process started them for itself."""
        self._stopping.set()
        self._watcher.join()
        self.client.close()
        if self._owned:
            stop_actors(self._router, self._spec)

    @property
    def workers(self) -> dict[str, Any]:
        """Actors by the name of their member, as there are now; the last is the target."""
        return find_workers(self._spec)

    def pids(self) -> dict[str, int]:
        """Process ids of the pool's actors, by member; ``router`` is the router's."""
        actors = {**self._present_workers(), "router": self._router}
        calls = [actor.pid.remote() for actor in actors.values()]
        found: list[int] = ray.get(calls, timeout=CALL_TIMEOUT_S)
        return dict(zip(actors, found, strict=True))

    def target_status(self) -> Status:
        """How the target's worker was about a second ago. UnavailableError: it does not answer."""
        calls = [worker.status.remote() for worker in list(self.workers.values())[-1:]]
        if not calls:
            raise UnavailableError("the pool has ended")
        status: Status = _answers(calls, CALL_TIMEOUT_S)[0]
        return status

    def start_trace(self) -> None:
        """Every worker records where its time goes, from now on."""
        self._ask_workers("start_trace")

    def take_trace(self) -> list[WorkerTrace]:
        """What every worker has recorded since; the recording ends."""
        traces: list[WorkerTrace] = self._ask_workers("take_trace")
        return traces

    def _ask_workers(self, method: str) -> list[Any]:
        workers = self._present_workers()
        calls = [getattr(worker, method).remote() for worker in workers.values()]
        return _answers(calls, _TRACE_TIMEOUT_S)

    def _present_workers(self) -> dict[str, Any]:
        """Those that answer: others may be waiting for a node."""
        present = self.directory()
        return {member: worker for member, worker in self.workers.items() if member in present}

    def _watch(self) -> None:
        """Tells the client when the target has moved: looked for while the client has none."""
        target, look_at_s = self._spec.target, 0.0
        while not self._stopping.wait(_WATCH_EVERY_S):
            if self.client.is_connected and time.monotonic() < look_at_s:
                continue
            look_at_s = time.monotonic() + _LOOK_EVERY_S
            try:
                address = self.directory().get(target)
            except UnavailableError as error:
                logger.warning("%s", error)
                continue
            if address is not None:
                self.client.set_target(address)


def _answers(calls: Sequence[Any], timeout_s: float) -> list[Any]:
    try:
        return list(ray.get(calls, timeout=timeout_s))
    except (RayActorError, GetTimeoutError) as error:
        raise UnavailableError(f"a worker does not answer: {type(error).__name__}") from None


def connect_pool(
    pool: Pool,
    report: PoolReport,
    *,
    detached: bool,
    log_format: LogFormat = DEFAULT_LOG_FORMAT,
) -> RunningPool:
    """The pool's actors: found running if they are of the same configuration, else started.

    Args:
        pool: with all directories resolved.
        report: of its checks.
        detached: the actors outlive this process, for others to find.
        log_format: of actors that are started.

    Raises:
        UnavailableError: the target is not up in time, or a member cannot start.
    """
    while True:
        router = named_router(pool.config.name)
        if router is not None:
            spec = _spec_of_running(router)
            if spec is None:
                continue
            if spec.config_hash == pool.config_hash:
                return RunningPool(router, spec)
            stop_actors(router, spec)
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
    spec: PoolSpec = ray.get(router.spec.remote(), timeout=CALL_TIMEOUT_S)
    return spec


def _spec_of_running(router: Any) -> PoolSpec | None:
    """None: it has ended, with the process that it was started by, or it starts again."""
    try:
        return ask_spec(router)
    except RayActorError:
        time.sleep(_WATCH_EVERY_S)
        return None


def stop_actors(router: Any, spec: PoolSpec) -> None:
    """Ends a pool's actors: in order where they still answer, by force where not."""
    actors = [router, *find_workers(spec).values()]
    calls = [actor.stop.remote() for actor in actors]
    ray.wait(calls, num_returns=len(calls), timeout=_STOP_TIMEOUT_S)
    for actor in actors:
        ray.kill(actor)


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


def _start_workers(router: Any, spec: PoolSpec, lifetime: str | None) -> RunningPool:
    try:
        end_strays(spec)
        workers = [start_worker(spec, member, lifetime=lifetime) for member in spec.workers]
        ray.get(router.look_for_workers.remote(), timeout=START_TIMEOUT_S)
        owned = workers if lifetime is None else ()
        return RunningPool(router, spec, is_new=True, owned=owned)
    except BaseException:
        stop_actors(router, spec)
        raise
