"""A whole pool in this process, without Ray: one worker that holds every member."""

import secrets
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from specrouter_dist.config import Plan
from specrouter_dist.engine.factory import load_engine
from specrouter_dist.links.control import Cancel, Failed, Output, Submit
from specrouter_dist.links.hub import Hub
from specrouter_dist.pools.checks import PoolReport
from specrouter_dist.pools.loading import (
    Pool,
    lookup_members,
    lora_members,
    model_members,
    slim_members,
)
from specrouter_dist.routing.explanation import explain
from specrouter_dist.routing.observations import Observations
from specrouter_dist.routing.planner import Candidate
from specrouter_dist.routing.plans import PlanTable
from specrouter_dist.routing.router import Router
from specrouter_dist.routing.traffic import Traffic
from specrouter_dist.text.tokenizer import Tokenizer
from specrouter_dist.tracing.records import WorkerTrace
from specrouter_dist.worker.asking import Asking
from specrouter_dist.worker.ending import make_ending
from specrouter_dist.worker.lookup import LookupHost
from specrouter_dist.worker.lora import hosts_of
from specrouter_dist.worker.member import Member
from specrouter_dist.worker.model_host import ModelHost
from specrouter_dist.worker.openmp import call_apart
from specrouter_dist.worker.posts import SetPlans
from specrouter_dist.worker.profiling import profile_all
from specrouter_dist.worker.slim import slim_hosts
from specrouter_dist.worker.tracing import Tracing
from specrouter_dist.worker.worker import Worker

_DECIDE_EVERY_S = 0.5


class LocalClient:
    """Requests to a worker of this process."""

    def __init__(self) -> None:
        self.worker: Worker | None = None
        self._failure: Exception | None = None
        self._receivers: dict[int, Callable[[Output | Failed], None]] = {}

    def submit(self, submit: Submit, receive: Callable[[Output | Failed], None]) -> None:
        """Hands the request over; its messages go to ``receive`` until the last one."""
        assert self.worker is not None
        self._receivers[submit.request] = receive
        self.worker.submit(submit)
        if self._failure is not None:
            self.fail(self._failure)

    def cancel(self, request: int) -> None:
        """Frees every level of the request; its last message says that it is over."""
        assert self.worker is not None
        self.worker.submit(Cancel(request))

    def fail(self, error: Exception) -> None:
        """The engine thread has ended: nobody would answer any more."""
        self._failure = error
        for request in list(self._receivers):
            text = f"the engine has failed: {error!r}"
            if (receive := self._receivers.pop(request, None)) is not None:
                receive(Failed(request, "UnavailableError", text))

    def deliver(self, message: Output | Failed) -> None:
        """Called on the engine thread."""
        receive = self._receivers[message.request]
        if isinstance(message, Failed) or message.finish_reason is not None:
            del self._receivers[message.request]
        receive(message)


class LocalPool:
    """The members of ``pool``, loaded, profiled and routed, in one worker."""

    is_new = True

    def __init__(self, pool: Pool, report: PoolReport) -> None:
        # Of the caller's thread: a new one would have as many as the last forward of another pool.
        num_threads = torch.get_num_threads()
        hosts, profiled = call_apart(lambda: _load_and_profile(pool, report, num_threads))
        lookups = [LookupHost(member) for member in lookup_members(pool)]
        members: list[Member] = [*hosts, *lookups]
        self._router = Router(
            [host.name for host in hosts],
            {member.name: member for member in lookup_members(pool)},
            # One thread computes for all.
            devices=dict.fromkeys((host.name for host in hosts), "local"),
            hop_us=0.0,
        )
        self._router.observe(profiled, time.monotonic())
        self._lock = threading.Lock()
        self._router.decide(time.monotonic())
        tokenizer = Tokenizer.load(pool.directories[pool.config.target.name])
        self.client = LocalClient()
        self.worker = Worker(
            members,
            Hub("local", 1, "local", secrets.token_bytes(32)),
            self._router.table,
            lambda submit: make_ending(tokenizer, submit),
            self.client.deliver,
            on_failure=self.client.fail,
        )
        self._tracing = Tracing(self.worker)
        self.client.worker = self.worker
        self.worker.start()
        self._stopping = threading.Event()
        self._control = threading.Thread(target=self._decide_for_ever, name="router")
        self._control.start()

    def plan_of(self, chain: Sequence[str], traffic: Traffic) -> Plan:
        """A plan for a chain that the user has named."""
        with self._lock:
            return self._router.plan_of(chain, traffic)

    def candidates(self, traffic: Traffic) -> list[Candidate]:
        """All chains with their predicted times, best first."""
        with self._lock:
            return self._router.candidates(traffic)

    def table(self) -> PlanTable:
        """The router's present choice."""
        with self._lock:
            return self._router.table

    def explain(self) -> dict[str, Any]:
        """What the router knows and has decided, as plain values."""
        with self._lock:
            return explain(self._router, time.monotonic())

    def start_trace(self) -> None:
        """Records where the worker's time goes, from now on."""
        self._tracing.start()

    def take_trace(self) -> list[WorkerTrace]:
        """What was recorded since; the recording ends."""
        return [self._tracing.take()]

    def close(self) -> None:
        """Stops both threads and frees the links."""
        self._stopping.set()
        self._control.join()
        self.worker.stop()

    def _decide_for_ever(self) -> None:
        asking = Asking(self.worker)
        while not self._stopping.wait(_DECIDE_EVERY_S):
            measured = asking.take()
            if measured is None or not measured.observations.has_any:
                continue
            with self._lock:
                now_s = time.monotonic()
                self._router.observe(measured.observations, now_s)
                table = self._router.decide(now_s) if self._router.is_due(now_s) else None
            if table is not None:
                self.worker.hub.post(SetPlans(table))


def _load_and_profile(
    pool: Pool, report: PoolReport, num_threads: int
) -> tuple[list[ModelHost], Observations]:
    hosts = _load_hosts(pool, report)
    # A start beside other work would decide for good.
    all_threads = num_threads if pool.config.target.device == "cpu" else None
    return hosts, profile_all(hosts, own_threads=num_threads, all_threads=all_threads)


def _load_hosts(pool: Pool, report: PoolReport) -> list[ModelHost]:
    """All members that are models, the target last."""
    hosts: list[ModelHost] = []
    for member in model_members(pool):
        directory = pool.directories[member.name]
        engine = load_engine(
            member,
            directory,
            num_ids=report.num_ids,
            exact=pool.config.exact,
            synthetic=pool.config.synthetic,
        )
        hosts += hosts_of(member, engine, directory, lora_members(pool))
    *drafters, target = hosts
    return [*drafters, *slim_hosts(slim_members(pool), target), target]
