"""The pool supervisor: starts a pool's actors, or finds them running."""

import logging
import os
import secrets
import threading
import time
from collections.abc import Callable
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError

from specrouter_dist.actors.router_actor import RouterActor
from specrouter_dist.actors.router_client import CALL_TIMEOUT_S, RouterClient
from specrouter_dist.actors.state_file import state_directory
from specrouter_dist.actors.worker_actor import WorkerActor, WorkerSpec
from specrouter_dist.config import ModelMember
from specrouter_dist.errors import UnavailableError
from specrouter_dist.links.address import Address
from specrouter_dist.links.hub import Hub
from specrouter_dist.pools.checks import PoolReport
from specrouter_dist.pools.loading import Pool, lookup_members, model_members, slim_members
from specrouter_dist.serving.link_client import LinkClient
from specrouter_dist.tracing.records import WorkerTrace

logger = logging.getLogger(__name__)

NAMESPACE = "specrouter"
HOP_US = 500.0
"""Assumed for a round trip between two workers until it has been observed."""
START_TIMEOUT_S = 120.0
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
    """

    def __init__(
        self,
        router: Any,
        workers: dict[str, Any],
        secret: bytes,
        *,
        is_new: bool,
        owned: bool,
    ) -> None:
        super().__init__(router)
        self.is_new = is_new
        self._owned = owned
        self._stopping = threading.Event()
        self.workers = workers
        """Actors by the name of their member; the last is the target."""
        node = ray.get_runtime_context().get_node_id()
        hub = Hub(
            f"client-{secrets.token_hex(4)}",
            secrets.randbits(63),
            node,
            secret,
            grpc_host=ray.util.get_node_ip_address(),
        )
        try:
            self.client = LinkClient(hub, self._wait_for_members())
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
            stop_actors(self._router, self.workers)

    def pids(self) -> dict[str, int]:
        """Process ids of the pool's actors, by member; ``router`` is the router's."""
        actors = {**self.workers, "router": self._router}
        calls = [actor.pid.remote() for actor in actors.values()]
        found: list[int] = ray.get(calls, timeout=CALL_TIMEOUT_S)
        return dict(zip(actors, found, strict=True))

    def start_trace(self) -> None:
        """Every worker records where its time goes, from now on."""
        self._ask_workers("start_trace")

    def take_trace(self) -> list[WorkerTrace]:
        """What every worker has recorded since; the recording ends."""
        traces: list[WorkerTrace] = self._ask_workers("take_trace")
        return traces

    def _ask_workers(self, method: str) -> list[Any]:
        calls = [getattr(worker, method).remote() for worker in self.workers.values()]
        try:
            return list(ray.get(calls, timeout=_TRACE_TIMEOUT_S))
        except (RayActorError, GetTimeoutError) as error:
            raise UnavailableError(f"a worker does not answer: {type(error).__name__}") from None

    def _wait_for_members(self) -> Address:
        """Until every member is there once: the target's address."""
        end = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < end:
            directory = self.directory(START_TIMEOUT_S)
            missing = [name for name in self.workers if name not in directory]
            if not missing:
                return directory[list(self.workers)[-1]]
            for name in missing:
                _raise_if_start_failed(name, self.workers[name])
            time.sleep(0.05)
        raise UnavailableError(
            f"members {missing} are not up after {START_TIMEOUT_S:.0f} s; does the cluster have "
            "the resources that the pool file asks for?"
        )

    def _watch(self) -> None:
        """Tells the client when the target has moved: looked for while the client has none."""
        target, look_at_s = list(self.workers)[-1], 0.0
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


def connect_pool(pool: Pool, report: PoolReport, *, detached: bool) -> RunningPool:
    """The pool's actors: found running if they are of the same configuration, else started.

    Args:
        pool: with all directories resolved.
        report: of its checks.
        detached: the actors outlive this process, for others to find.

    Raises:
        UnavailableError: the members are not up in time.
    """
    router = named_router(pool)
    if router is not None:
        config_hash, secret, workers = ray.get(router.identity.remote(), timeout=CALL_TIMEOUT_S)
        if config_hash == pool.config_hash:
            return RunningPool(router, workers, secret, is_new=False, owned=False)
        stop_actors(router, workers)
    secret = secrets.token_bytes(32)
    lifetime = "detached" if detached else None
    # A name of its own: those of a pool that is being stopped may still be taken.
    names = {
        member.name: f"{pool.config.name}:{member.name}:{secrets.token_hex(4)}"
        for member in model_members(pool)
    }
    workers = {
        member.name: _start_worker(pool, report, member, secret, lifetime, names[member.name])
        for member in model_members(pool)
    }
    lookups = {member.name: member for member in lookup_members(pool)}
    slims = [member.name for member in slim_members(pool)]
    router = (
        ray.remote(RouterActor)
        .options(
            name=_router_name(pool),
            namespace=NAMESPACE,
            lifetime=lifetime,
            num_cpus=0,
            max_restarts=-1,
        )
        .remote(
            pool.config_hash, secret, names, slims, NAMESPACE, lookups, HOP_US, state_directory()
        )
    )
    try:
        return RunningPool(router, workers, secret, is_new=True, owned=not detached)
    except BaseException:
        stop_actors(router, workers)
        raise


def named_router(pool: Pool) -> Any | None:
    """The actor that routes ``pool`` in the cluster, if there is one."""
    try:
        return ray.get_actor(_router_name(pool), NAMESPACE)
    except ValueError:
        return None


def _router_name(pool: Pool) -> str:
    return f"{pool.config.name}:router"


def stop_actors(router: Any, workers: dict[str, Any]) -> None:
    """Ends a pool's actors: in order where they still answer, by force where not."""
    actors = [router, *workers.values()]
    calls = [actor.stop.remote() for actor in actors]
    ray.wait(calls, num_returns=len(calls), timeout=_STOP_TIMEOUT_S)
    for actor in actors:
        ray.kill(actor)


def _start_worker(
    pool: Pool,
    report: PoolReport,
    member: ModelMember,
    secret: bytes,
    lifetime: str | None,
    name: str,
) -> Any:
    spec = WorkerSpec(
        member=member,
        directory=pool.directories[member.name],
        lookups=tuple(lookup_members(pool)),
        slims=tuple(slim_members(pool)) if member.role == "target" else (),
        num_ids=report.num_ids,
        exact=pool.config.exact,
        secret=secret,
    )
    options: dict[str, Any] = {
        "name": name,
        "namespace": NAMESPACE,
        "lifetime": lifetime,
        "num_cpus": member.num_cpus,
        "num_gpus": member.num_gpus,
        "resources": dict(member.resources),
        "max_restarts": -1,
        "runtime_env": {"env_vars": _ENVIRONMENT},
    }
    if member.labels:
        options["label_selector"] = dict(member.labels)
    return ray.remote(WorkerActor).options(**options).remote(spec)


_ENVIRONMENT = {"OMP_WAIT_POLICY": "PASSIVE"}
"""A chain's processes must not starve each other while their OpenMP threads have no work."""


def _raise_if_start_failed(name: str, worker: Any) -> None:
    """A constructor's error is the user's to know; Ray keeps it with the dead actor."""
    ready: Callable[..., Any] = worker.pid.remote
    done, _ = ray.wait([ready()], timeout=0.5)
    if done:
        try:
            ray.get(done[0])
        except RayActorError as error:
            lines = str(error).strip().splitlines()
            raise UnavailableError(f"member {name!r} did not start: {lines[-1]}") from None
