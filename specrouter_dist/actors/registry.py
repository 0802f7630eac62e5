"""The workers of one start of a pool, by names that whoever knows the pool can find them under."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import ray
from ray.util import list_named_actors

from specrouter_dist.actors.worker_actor import OBSERVING, WorkerActor, WorkerSpec
from specrouter_dist.config import LogFormat, LookupMember

NAMESPACE = "specrouter"
START_TIMEOUT_S = 120.0
"""For loading; a pool begins without the drafters that take longer."""


class MemberState(StrEnum):
    """How a member of a running pool is."""

    UP = "up"
    STARTING = "starting"
    """It loads, or waits for a node."""
    LOST = "lost"
    """It was up and does not answer; Ray starts it again."""
    REMOVED = "removed"


@dataclass(frozen=True, slots=True)
class PoolSpec:
    """What does not change while a pool runs."""

    name: str
    config_hash: str
    """Decides whether a running pool is the wanted one."""
    secret: bytes
    """Of the pool's links."""
    life: str
    """Tells the workers of this start from those of others, which may not be gone yet."""
    workers: Mapping[str, WorkerSpec]
    """By member; the last is the target."""
    lookups: Mapping[str, LookupMember]
    """Members without a model."""
    log_format: LogFormat
    """Of all its actors."""

    @property
    def tenants(self) -> dict[str, tuple[str, ...]]:
        """Members by the worker that they are in, which has the name of its model."""
        return {
            name: (*(m.name for m in worker.adapters), *(m.name for m in worker.slims), name)
            for name, worker in self.workers.items()
        }

    @property
    def target(self) -> str:
        """The target's name."""
        return list(self.workers)[-1]


def start_worker(spec: PoolSpec, member: str, *, lifetime: str | None) -> Any:
    """The member's actor; Ray starts it as soon as a node has what the member asks for."""
    worker = spec.workers[member]
    config = worker.member
    options: dict[str, Any] = {
        "name": _worker_name(spec, member),
        "namespace": NAMESPACE,
        "lifetime": lifetime,
        "num_cpus": config.num_cpus,
        "num_gpus": config.num_gpus,
        "resources": dict(config.resources),
        "max_restarts": -1,
    }
    if config.labels:
        options["label_selector"] = dict(config.labels)
    actor = ray.remote(concurrency_groups={OBSERVING: 1})(WorkerActor)
    return actor.options(**options).remote(worker)


def find_workers(spec: PoolSpec) -> dict[str, Any]:
    """The actors that there are, waiting ones too, by member; the target is the last."""
    found = {member: _find(_worker_name(spec, member)) for member in spec.workers}
    return {member: worker for member, worker in found.items() if worker is not None}


def end_strays(spec: PoolSpec) -> None:
    """Ends the workers that other starts of the pool have left, whose routers are gone."""
    for name in _names_of(spec.name):
        is_ours = name in {_worker_name(spec, member) for member in spec.workers}
        if name != router_name(spec.name) and not is_ours and (worker := _find(name)):
            ray.kill(worker)


def router_name(pool: str) -> str:
    """Under which a pool's router is found."""
    return f"{pool}:router"


def _worker_name(spec: PoolSpec, member: str) -> str:
    return f"{spec.name}:{member}:{spec.life}"


def _names_of(pool: str) -> Iterator[str]:
    for actor in list_named_actors(all_namespaces=True):
        if actor["namespace"] == NAMESPACE and actor["name"].startswith(f"{pool}:"):
            yield actor["name"]


def _find(name: str) -> Any | None:
    try:
        return ray.get_actor(name, NAMESPACE)
    except ValueError:
        return None
