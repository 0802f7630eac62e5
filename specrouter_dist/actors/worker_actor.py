"""One worker in a Ray actor."""

import os
import queue
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import ray

from specrouter_dist.config import LayerSkipMember, LookupMember, ModelMember, Plan
from specrouter_dist.links.address import Address
from specrouter_dist.links.hub import Hub
from specrouter_dist.routing.observations import Observations
from specrouter_dist.routing.plans import PlanTable
from specrouter_dist.text.tokenizer import Tokenizer
from specrouter_dist.tracing.records import WorkerTrace
from specrouter_dist.worker.ending import make_ending
from specrouter_dist.worker.member import LookupHost, Member, ModelHost
from specrouter_dist.worker.posts import Call, SetDirectory, SetPlans
from specrouter_dist.worker.profiling import profile_all
from specrouter_dist.worker.slim import slim_hosts
from specrouter_dist.worker.tracing import Tracing
from specrouter_dist.worker.worker import Worker


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """All that an actor needs to build its worker, again and again."""

    member: ModelMember
    directory: Path
    lookups: tuple[LookupMember, ...]
    """Members without a model; every worker has them."""
    slims: tuple[LayerSkipMember, ...]
    """Parts of ``member``, which is the target then."""
    num_ids: int
    exact: bool
    secret: bytes


class WorkerActor:
    """Complete when ``__init__`` returns: model loaded, profile taken, links listening."""

    def __init__(self, spec: WorkerSpec) -> None:
        # Imported here: torch is for workers, not for everybody who holds a handle of one.
        from specrouter_dist.engine.factory import load_engine

        member = spec.member
        engine = load_engine(
            member,
            spec.directory,
            num_ids=spec.num_ids,
            exact=spec.exact,
        )
        self._taken: queue.SimpleQueue[Observations] = queue.SimpleQueue()
        self._taken.put(Observations())
        host = ModelHost(member.name, engine, is_target=member.role == "target")
        hosts = [host, *slim_hosts(spec.slims, host)]
        self._profile = profile_all(hosts)
        members: list[Member] = [*hosts, *(LookupHost(lookup) for lookup in spec.lookups)]
        tokenizer = Tokenizer.load(spec.directory)
        hub = Hub(
            member.name,
            secrets.randbits(63),
            ray.get_runtime_context().get_node_id(),
            spec.secret,
            vocab_size=engine.info.vocab_size,
            grpc_host=ray.util.get_node_ip_address(),
        )
        self._worker = Worker(
            members,
            hub,
            PlanTable.only(Plan(chain=(member.name,))),
            lambda submit: make_ending(tokenizer, submit),
            _refuse_local,
            # Ray restarts the actor; an actor without its engine thread is of no use.
            on_failure=lambda error: os._exit(1),
        )
        self._tracing = Tracing(self._worker)
        self._worker.start()

    def profile(self) -> Observations:
        """Times of its steps, measured once, when it started: for every router that it meets."""
        return self._profile

    def observe(self) -> tuple[Address, Observations]:
        """Where the worker is, and what it has measured since the last call."""
        try:
            taken = self._taken.get_nowait()
        except queue.Empty:
            # The engine thread is in a long forward: what it has measured comes with a later call.
            return self._worker.hub.address, Observations()
        self._worker.hub.post(Call(lambda: self._taken.put(self._worker.take_observations())))
        return self._worker.hub.address, taken

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

    def pid(self) -> int:
        """Process id, for tests and for people who look."""
        return os.getpid()

    def stop(self) -> None:
        """Ends the engine thread and removes its sockets."""
        self._worker.stop()


def _refuse_local(message: object) -> None:
    raise AssertionError(f"no client lives in an actor, but one was sent {message}")
