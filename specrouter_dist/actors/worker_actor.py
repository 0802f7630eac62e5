"""One worker in a Ray actor."""

import os
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Self

import ray

from specrouter_dist.actors.cpus import SharedCpus, own_cpus
from specrouter_dist.actors.metrics import WorkerMetrics
from specrouter_dist.config import (
    LayerSkipMember,
    LogFormat,
    LookupMember,
    LoraMember,
    ModelMember,
    Plan,
    SyntheticTexts,
)
from specrouter_dist.errors import UnavailableError
from specrouter_dist.links.address import Address
from specrouter_dist.links.control import Submit
from specrouter_dist.links.hub import Hub
from specrouter_dist.observability.logs import configure_logs
from specrouter_dist.observability.spans import close_spans, configure_spans
from specrouter_dist.pools.checks import PoolReport
from specrouter_dist.pools.loading import (
    Pool,
    lookup_members,
    lora_members,
    named_directory,
    slim_members,
)
from specrouter_dist.routing.observations import Observations
from specrouter_dist.routing.plans import PlanTable
from specrouter_dist.speculation.ending import Ending
from specrouter_dist.text.tokenizer import Tokenizer
from specrouter_dist.tracing.records import WorkerTrace
from specrouter_dist.worker.asking import Asking
from specrouter_dist.worker.ending import make_ending
from specrouter_dist.worker.lookup import LookupHost
from specrouter_dist.worker.lora import hosts_of
from specrouter_dist.worker.member import Member
from specrouter_dist.worker.model_host import ModelHost
from specrouter_dist.worker.openmp import call_apart, set_spins
from specrouter_dist.worker.posts import SetDirectory, SetPlans
from specrouter_dist.worker.profiling import profile_all
from specrouter_dist.worker.slim import slim_hosts
from specrouter_dist.worker.status import Status
from specrouter_dist.worker.tracing import Tracing
from specrouter_dist.worker.worker import Worker


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """All that an actor needs to build its worker, again and again."""

    member: ModelMember
    directory: Path
    """Of the model, where the pool was started; a node without it fetches the model by hub name."""
    lookups: tuple[LookupMember, ...]
    """Members without a model; every worker has them."""
    slims: tuple[LayerSkipMember, ...]
    """Parts of ``member``, which is the target then."""
    adapters: tuple[LoraMember, ...]
    """On ``member``, by the directories where the pool was started."""
    num_ids: int
    exact: bool
    synthetic: SyntheticTexts | None
    """What the members of a synthetic pool write."""
    secret: bytes
    pool: str
    """Its name."""
    log_format: LogFormat

    @classmethod
    def of(
        cls,
        member: ModelMember,
        pool: Pool,
        report: PoolReport,
        secret: bytes,
        log_format: LogFormat,
    ) -> Self:
        """That of a member of a checked pool."""
        return cls(
            member=member,
            directory=pool.directories[member.name],
            lookups=tuple(lookup_members(pool)),
            slims=tuple(slim_members(pool)) if member.role == "target" else (),
            adapters=tuple(m for m in lora_members(pool) if m.of == member.name),
            num_ids=report.num_ids,
            exact=pool.config.exact,
            synthetic=pool.config.synthetic,
            secret=secret,
            pool=pool.config.name,
            log_format=log_format,
        )


OBSERVING = "observing"
"""A thread of its own (Ray: a concurrency group)."""


class WorkerActor:
    """Complete when ``__init__`` returns: model loaded, profile taken, links listening."""

    def __init__(self, spec: WorkerSpec) -> None:
        member = spec.member
        configure_logs(spec.log_format, member.name)
        configure_spans(member.name)
        set_spins()
        directory = _directory_here(spec)
        self._status = Status()
        self._metrics = WorkerMetrics(spec.pool, member.name)
        hosts, self._profile = call_apart(lambda: _load_and_profile(spec, directory))
        members: list[Member] = [*hosts, *(LookupHost(lookup) for lookup in spec.lookups)]
        hub = Hub(
            member.name,
            secrets.randbits(63),
            ray.get_runtime_context().get_node_id(),
            spec.secret,
            vocab_size=hosts[0].engine.info.vocab_size,
            grpc_host=ray.util.get_node_ip_address(),
        )
        self._worker = Worker(
            members,
            hub,
            PlanTable.only(Plan(chain=(member.name,))),
            _ending_maker(member, directory),
            _refuse_local,
            # Ray restarts the actor; an actor without its engine thread is of no use.
            on_failure=lambda error: os._exit(1),
            are_cpus_taken=SharedCpus().are_taken if _shares_cpus(member) else lambda: False,
        )
        self._asking = Asking(self._worker)
        self._tracing = Tracing(self._worker)
        self._worker.start()

    def profile(self) -> Observations:
        """Times of its steps, measured once, when it started: for every router that it meets."""
        return self._profile

    def observe(self, after_s: float) -> tuple[Address, Observations]:
        """Where the worker is, and what it has measured since the last call, after so long: earlier
        if it is urgent. To be called in :data:`OBSERVING`: others are answered meanwhile."""
        if (measured := self._asking.take(after_s)) is None:
            return self._worker.hub.address, Observations()
        self._status = measured.status
        self._metrics.publish(*measured)
        return self._worker.hub.address, measured.observations

    def status(self) -> Status:
        """How the worker was when the router last asked, about a second ago."""
        return self._status

    def set_directory(self, addresses: Mapping[str, Address]) -> None:
        """Where each member of the pool is now."""
        self._worker.hub.post(SetDirectory(addresses))

    def set_plans(self, table: PlanTable) -> None:
        """The router's newest choice."""
        self._worker.hub.post(SetPlans(table))

    def start_trace(self) -> None:
        """Records where its time goes, from now on."""
        self._tracing.start()

    def take_trace(self) -> WorkerTrace:
        """What was recorded since; the recording ends."""
        return self._tracing.take()

    def num_sessions(self) -> int:
        """Open sessions, the parked ones too."""
        return self._worker.num_sessions

    def node_id(self) -> str:
        """Ray's id of the node that the worker is on."""
        node_id: str = ray.get_runtime_context().get_node_id()
        return node_id

    def pid(self) -> int:
        """Process id, for tests and for people who look."""
        return os.getpid()

    def stop(self) -> None:
        """Ends the engine thread and removes its sockets."""
        self._worker.stop()
        close_spans()


def _load_and_profile(spec: WorkerSpec, directory: Path) -> tuple[list[ModelHost], Observations]:
    # Imported here: torch is for workers, not for everybody who holds a handle of one.
    import torch

    from specrouter_dist.engine.factory import load_engine

    engine = load_engine(
        spec.member,
        directory,
        num_ids=spec.num_ids,
        exact=spec.exact,
        synthetic=spec.synthetic,
    )
    host, *adapted = hosts_of(spec.member, engine, directory, spec.adapters)
    hosts = [host, *adapted, *slim_hosts(spec.slims, host)]
    # Ray lets an actor on the CPU have as many as it has asked for CPUs, at least one.
    own_threads = torch.get_num_threads()
    all_threads = _node_cpus() if _shares_cpus(spec.member) else None
    return hosts, profile_all(hosts, own_threads=own_threads, all_threads=all_threads)


def _node_cpus() -> int:
    """That this process may use and Ray has to give, which knows of containers' quotas."""
    own_id = ray.get_runtime_context().get_node_id()
    node = next(node for node in ray.nodes() if node["NodeID"] == own_id)
    return max(1, min(len(own_cpus()), int(node["Resources"].get("CPU", 0))))


def _shares_cpus(member: ModelMember) -> bool:
    """One that has asked for none has those of its node, as others there have."""
    return member.device == "cpu" and not member.num_cpus


def _directory_here(spec: WorkerSpec) -> Path:
    """
    Raises:
        NotFoundError: this node has no such directory, and the hub no such model.
    """
    if spec.directory.is_dir():
        return spec.directory
    return named_directory(spec.member, expected_directory=spec.directory)


def _ending_maker(member: ModelMember, directory: Path) -> Callable[[Submit], Ending]:
    """A drafter loads no tokenizer, which takes a second to import: no request comes to it."""
    if member.role == "target":
        return partial(make_ending, Tokenizer.load(directory))

    def refuse(submit: Submit) -> Ending:
        raise UnavailableError(f"{member.name} is a drafter; requests go to the target")

    return refuse


def _refuse_local(message: object) -> None:
    raise AssertionError(f"no client lives in an actor, but one was sent {message}")
