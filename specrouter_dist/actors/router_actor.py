"""The router in a Ray actor: asks workers what they measured, tells them what to do.

It is not on the token path; when it dies, what runs goes on with the last plans.
"""

import asyncio
import logging
import os
import time
from collections import defaultdict
from collections.abc import Awaitable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayActorError

from specrouter_dist.actors.memory import Memory
from specrouter_dist.actors.metrics import RouterMetrics
from specrouter_dist.actors.registry import MemberState, PoolSpec, find_workers, start_worker
from specrouter_dist.actors.state_file import StateFile
from specrouter_dist.actors.worker_actor import OBSERVING
from specrouter_dist.config import Plan
from specrouter_dist.links.address import Address
from specrouter_dist.observability.logs import configure_logs
from specrouter_dist.routing.explanation import explain
from specrouter_dist.routing.observations import Observations
from specrouter_dist.routing.planner import Candidate
from specrouter_dist.routing.plans import PlanTable
from specrouter_dist.routing.router import Router
from specrouter_dist.routing.traffic import Traffic

logger = logging.getLogger(__name__)

PERIOD_S = 0.5
"""How often workers are asked that did not answer."""
_DECIDE_PERIOD_S = 0.25
"""How often decisions are made, at most: a choice is confirmed by what was measured meanwhile."""
_CALM_PERIOD_S = 1.0
_DOUBT_PERIOD_S = 0.15
"""How often workers are asked, since every call takes CPU time of both: once a second, or when they
say that something has changed; soon again where a time is far from what was known, since only what
is measured twice is a change."""
_CALL_TIMEOUT_S = 5.0

_Answer = tuple[Address, tuple[Observations, ...]]
"""Where a worker is, and what it has measured, the oldest first."""


class RouterActor:
    """Registry and decisions of one pool.

    Args:
        spec: of the pool. Workers are found by their names, since handles among the arguments
            would keep Ray from starting the router again.
        hop_us: what a round pays for crossing between two workers, until it has been observed.
        state_directory: where what it learns is kept, for the router that comes after it.
    """

    def __init__(self, spec: PoolSpec, hop_us: float, state_directory: Path) -> None:
        configure_logs(spec.log_format, "router")
        self._spec = spec
        self._tenants = spec.tenants
        devices = {m: worker for worker, members in self._tenants.items() for m in members}
        self._router = Router(list(devices), spec.lookups, devices=devices, hop_us=hop_us)
        self._metrics = RouterMetrics(spec.name)
        self._workers: dict[str, Any] = {}
        self._addresses: dict[str, Address] = {}
        self._was_up: set[str] = set()
        file = StateFile(state_directory, spec.config_hash)
        self._memory = Memory(self._router, file, spec.config_hash, spec.secret)
        self._learned = self._memory.recall()
        """Whether there is something to decide about."""
        self._decided_at = -_DECIDE_PERIOD_S
        self._restless_until = 0.0
        """Something has changed, or may have."""
        self._cpu_s: defaultdict[str, float] = defaultdict(float)
        """Of this thread, by what it was spent on."""
        self._saving = asyncio.get_running_loop().create_task(self._memory.save_for_ever())
        self._following: dict[str, asyncio.Task[None]] = {}
        self._note_who_is_there()
        self._follow(find_workers(spec))

    async def spec(self) -> PoolSpec:
        """What the pool was started with."""
        return self._spec

    async def look_for_workers(self) -> None:
        """Those that were started since the last call, too."""
        self._follow(find_workers(self._spec))

    async def members(self) -> dict[str, MemberState]:
        """How each member with a model is, as the worker that it is in; the target is the last."""
        return {m: self._state_of(worker) for worker, own in self._tenants.items() for m in own}

    async def add(self, member: str) -> None:
        """Starts a member that was removed; it drafts as soon as it is up."""
        if member not in self._workers:
            # The process that started the pool may be gone, and this one may be started again.
            self._follow({member: start_worker(self._spec, member, lifetime="detached")})

    async def remove(self, member: str) -> None:
        """Ends a drafter's actor, with its adapters. Requests that it drafts for go on without."""
        if member == self._spec.target:
            raise ValueError("a pool has a target")
        worker = self._workers.pop(member, None)
        if worker is None:
            return
        self._following.pop(member).cancel()
        self._was_up.discard(member)
        gone = [self._addresses.pop(tenant, None) for tenant in self._tenants[member]]
        if any(gone):
            await self._on_members_changed()
            await self._call(member, worker.stop.remote())
        ray.kill(worker)

    async def directory(self) -> dict[str, Address]:
        """Members that can be reached, and where."""
        return dict(self._addresses)

    async def table(self) -> PlanTable:
        """The present choice."""
        return self._router.table

    async def plan_of(self, chain: Sequence[str], traffic: Traffic) -> Plan:
        """A plan for a chain that the user has named."""
        return self._router.plan_of(chain, traffic)

    async def candidates(self, traffic: Traffic) -> list[Candidate]:
        """All chains with their predicted times, best first."""
        return self._router.candidates(traffic)

    async def explain(self) -> dict[str, Any]:
        """What it knows and has decided, and what that has cost, as plain values."""
        return {**explain(self._router, time.time()), "cpu_s": dict(self._cpu_s)}

    async def pid(self) -> int:
        """Process id, for tests and for people who look."""
        return os.getpid()

    async def stop(self) -> None:
        """Ends its decisions and keeps what it knows."""
        for following in self._following.values():
            following.cancel()
        await self._memory.save()

    def _follow(self, workers: Mapping[str, Any]) -> None:
        """Asks those that are new what they measure, as long as they are members."""
        for member in workers.keys() - self._workers.keys():
            self._workers[member] = workers[member]
            task = asyncio.get_running_loop().create_task(self._ask_for_ever(member))
            task.add_done_callback(_tell_failure)
            self._following[member] = task

    async def _ask_for_ever(self, member: str) -> None:
        after_s = 0.0
        while True:
            answer = await self._ask(member, after_s)
            if self._heard(member, answer):
                await self._on_members_changed()
            elif self._decide():
                await self._tell([self._spec.target], "set_plans", self._router.table)
            self._publish()
            if answer is None:
                await asyncio.sleep(PERIOD_S)
            after_s = self._pause_s(member, answer)

    async def _on_members_changed(self) -> None:
        self._note_who_is_there()
        self._decide()
        reachable = [worker for worker in self._workers if worker in self._addresses]
        await self._tell(reachable, "set_directory", dict(self._addresses))
        if self._spec.target in self._addresses:
            await self._tell([self._spec.target], "set_plans", self._router.table)

    def _note_who_is_there(self) -> None:
        """Plans are made of members that are there."""
        members = {member for tenants in self._tenants.values() for member in tenants}
        away = members - self._addresses.keys()
        self._router.set_away(away - {self._spec.target})
        self._learned = True

    def _state_of(self, member: str) -> MemberState:
        if member not in self._workers:
            return MemberState.REMOVED
        if member in self._addresses:
            return MemberState.UP
        return MemberState.LOST if member in self._was_up else MemberState.STARTING

    def _publish(self) -> None:
        self._metrics.publish(
            plan_number=self._router.number,
            num_refused=self._router.num_refused,
            cpu_s=self._cpu_s,
            reachable={name: name in self._addresses for name in self._workers},
        )

    def _decide(self) -> bool:
        """Whether the plans have changed. Workers answer one by one, decisions are for all."""
        now, now_s = time.monotonic(), time.time()
        is_early = now - self._decided_at < _DECIDE_PERIOD_S
        if not self._learned or is_early or not self._router.is_due(now_s):
            return False
        self._learned, self._decided_at = False, now
        with self._spending("deciding"):
            has_changed = self._router.decide(now_s) is not None
        # The numbers of plans must go on from there.
        self._memory.has_news |= has_changed
        return has_changed

    @contextmanager
    def _spending(self, on: str) -> Iterator[None]:
        began_s = time.thread_time()
        try:
            yield
        finally:
            self._cpu_s[on] += time.thread_time() - began_s

    async def _ask(self, name: str, after_s: float) -> _Answer | None:
        worker = self._workers[name]
        try:
            observe = worker.observe.options(concurrency_group=OBSERVING)
            address, observations = await observe.remote(after_s)
            if address == self._addresses.get(name):
                return address, (observations,)
            # The worker is new, or it is new to this router.
            return address, (await worker.profile.remote(), observations)
        except RayActorError as error:
            logger.warning("worker %s does not answer: %s", name, type(error).__name__)
            return None

    def _heard(self, name: str, answer: _Answer | None) -> bool:
        """Takes an answer; whether the directory has changed."""
        before = self._addresses.get(name)
        if answer is None:
            for member in self._tenants[name]:
                self._addresses.pop(member, None)
        else:
            address, measured = answer
            self._addresses.update(dict.fromkeys(self._tenants[name], address))
            self._was_up.add(name)
            for observations in measured:
                # The time of day: what was measured outlives this process, perhaps this machine.
                with self._spending("observing"):
                    self._router.observe(observations, time.time())
                self._learned |= observations.has_any
                self._memory.has_news |= observations.has_any
        return self._addresses.get(name) != before

    def _pause_s(self, name: str, answer: _Answer | None) -> float:
        """How long after this answer the next is wanted."""
        if answer is None:
            return 0.0
        *_, newest = answer[1]
        now = time.monotonic()
        if newest.is_urgent or (newest.has_any and self._router.latency.is_in_doubt(name)):
            self._restless_until = now + _CALM_PERIOD_S
            return _DOUBT_PERIOD_S
        # What is decided now may have to be confirmed.
        is_restless = newest.has_any and now < self._restless_until
        return _DECIDE_PERIOD_S if is_restless else _CALM_PERIOD_S

    async def _tell(self, names: Sequence[str], method: str, argument: object) -> None:
        calls = [getattr(self._workers[name], method).remote(argument) for name in names]
        for name, call in zip(names, calls, strict=True):
            await self._call(f"{name}.{method}", call)

    async def _call(self, what: str, call: Awaitable[Any]) -> None:
        try:
            await asyncio.wait_for(call, _CALL_TIMEOUT_S)
        except (RayActorError, TimeoutError) as error:
            logger.warning("%s: %s", what, type(error).__name__)


def _tell_failure(following: "asyncio.Task[None]") -> None:
    """A defect: whoever is not asked any more is in no plan for long."""
    if not following.cancelled() and (problem := following.exception()) is not None:
        logger.error("a worker is not asked any more", exc_info=problem)
