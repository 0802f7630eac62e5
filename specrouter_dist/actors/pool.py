"""The client's side of a pool of actors."""

import logging
import secrets
import threading
import time
from collections.abc import Sequence
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError

from specrouter_dist.actors.registry import find_workers
from specrouter_dist.actors.router_client import CALL_TIMEOUT_S, RouterClient
from specrouter_dist.actors.starting import PoolActors
from specrouter_dist.actors.waiting import wait_for_drafters, wait_for_target
from specrouter_dist.errors import UnavailableError
from specrouter_dist.links.hub import Hub
from specrouter_dist.serving.link_client import LinkClient
from specrouter_dist.tracing.records import WorkerTrace
from specrouter_dist.worker.status import Status

logger = logging.getLogger(__name__)

_WATCH_EVERY_S = 0.5
_LOOK_EVERY_S = 5.0
"""At least; every call costs the router some milliseconds."""
_TRACE_TIMEOUT_S = 30.0
"""A worker in a long forward answers behind it; a long trace is some megabytes."""


class RunningPool(RouterClient):
    """A pool's actors, and a client of its target in this process.

    Args:
        actors: of the pool; the target is waited for.

    Raises:
        UnavailableError: it is not up in time, or cannot start; then a pool that is new has ended.
    """

    def __init__(self, actors: PoolActors) -> None:
        super().__init__(actors.router)
        self.is_new = actors.is_new
        self._actors = actors
        self._spec = spec = actors.spec
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
            self.client = LinkClient(hub, wait_for_target(self, spec))
        except BaseException:
            hub.close()
            if actors.is_new:
                actors.stop()
            raise
        self._watcher = threading.Thread(target=self._watch, name="pool-watcher", daemon=True)
        self._watcher.start()

    def wait_for_drafters(self) -> None:
        """Until those are up that have a node to be on. The others come when their nodes do.

        Raises:
            UnavailableError: one cannot start; then a pool that is new has ended.
        """
        try:
            wait_for_drafters(self, self._spec)
        except BaseException:
            if self.is_new:
                self._actors.stop()
            raise

    def close(self) -> None:
        """Closes the client; ends the actors too if this process started them for itself."""
        self._stopping.set()
        self._watcher.join()
        self.client.close()
        if self._actors.owned:
            self._actors.stop()

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
