"""Until a pool can serve: its target is up, and so are the drafters that have a node to be on."""

import logging
import time
from collections.abc import Callable
from typing import Any

import ray
from ray.exceptions import RayActorError

from specrouter_dist.actors.placing import describe_need, without_node
from specrouter_dist.actors.registry import START_TIMEOUT_S, PoolSpec, find_workers
from specrouter_dist.actors.router_client import RouterClient
from specrouter_dist.errors import UnavailableError
from specrouter_dist.links.address import Address

logger = logging.getLogger(__name__)

NODE_TIMEOUT_S = 900.0
"""For the target's node, which an autoscaler may have to bring up first."""
_LOOK_EVERY_S = 0.05
_LOOK_FOR_NODE_EVERY_S = 0.5


def wait_for_target(router: RouterClient, spec: PoolSpec) -> Address:
    """The target's address, when it is up.

    Raises:
        UnavailableError: it is not in time, or cannot start.
    """
    _wait_for_node(spec)
    end_s = time.monotonic() + START_TIMEOUT_S
    while (address := router.directory(START_TIMEOUT_S).get(spec.target)) is None:
        if time.monotonic() > end_s:
            raise UnavailableError(
                f"the target {spec.target!r} is not up after {START_TIMEOUT_S:.0f} s; are the "
                "resources free that the pool file asks for?"
            )
        if (worker := find_workers(spec).get(spec.target)) is not None:
            _raise_if_start_failed(spec.target, worker)
        time.sleep(_LOOK_EVERY_S)
    return address


def wait_for_drafters(router: RouterClient, spec: PoolSpec) -> None:
    """Until all are up that have a node to be on, or are late. The others come when they can.

    Raises:
        UnavailableError: one cannot start.
    """
    end_s = time.monotonic() + START_TIMEOUT_S
    while True:
        directory = router.directory(START_TIMEOUT_S)
        missing = {n: worker for n, worker in find_workers(spec).items() if n not in directory}
        loading = missing.keys() - _stranded(spec)
        if not loading or time.monotonic() > end_s:
            break
        for name in loading:
            _raise_if_start_failed(name, missing[name])
        time.sleep(_LOOK_EVERY_S)
    for name in missing:
        need = describe_need(spec.workers[name].member)
        logger.warning("the pool begins without a drafter: %s", need)


def _wait_for_node(spec: PoolSpec) -> None:
    """Until a node could hold the target."""
    end_s = time.monotonic() + NODE_TIMEOUT_S
    need = describe_need(spec.workers[spec.target].member)
    is_told = False
    while spec.target in _stranded(spec):
        if time.monotonic() > end_s:
            raise UnavailableError(f"after {NODE_TIMEOUT_S:.0f} s there is no such node: {need}")
        if not is_told:
            logger.warning("waiting up to %.0f s for a node: %s", NODE_TIMEOUT_S, need)
            is_told = True
        time.sleep(_LOOK_FOR_NODE_EVERY_S)


def _stranded(spec: PoolSpec) -> set[str]:
    """Members that no node can hold."""
    members = (worker.member for worker in spec.workers.values())
    return {member.name for member in without_node(members, ray.nodes())}


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
