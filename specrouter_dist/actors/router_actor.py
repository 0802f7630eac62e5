"""The router in a Ray actor: asks workers what they measured, tells them what to do.

It is not on the token path; when it dies, what runs goes on with the last plans.
"""

import asyncio
import logging
import os
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayActorError

from specrouter_dist.actors.memory import Memory
from specrouter_dist.actors.state_file import StateFile
from specrouter_dist.config import LookupMember, Plan
from specrouter_dist.links.address import Address
from specrouter_dist.routing.explanation import explain
from specrouter_dist.routing.observations import Observations
from specrouter_dist.routing.planner import Candidate
from specrouter_dist.routing.plans import PlanTable
from specrouter_dist.routing.router import Router
from specrouter_dist.routing.traffic import Traffic

logger = logging.getLogger(__name__)

PERIOD_S = 0.5
"""How often decisions are made, at most, and workers asked that did not answer."""
_CALM_PERIOD_S = 1.0
_DOUBT_PERIOD_S = 0.25
"""How often workers are asked, since every call takes CPU time of both: once a second; soon again
where a time is far from what was known, since only what is measured twice is a change."""
_CALL_TIMEOUT_S = 5.0

_Answer = tuple[Address, tuple[Observations, ...]]
"""Where a worker is, and what it has measured, the oldest first."""


class RouterActor:
    """Registry and decisions of one pool.

    Args:
        config_hash: of the pool; decides whether a running pool is the wanted one.
        secret: of the pool's links.
        workers: names of actors by the name of their member; the last is the target. Names, since
            handles among the arguments would keep Ray from starting the router again.
        slims: members that are parts of the target, in its worker.
        namespace: of these names.
        lookups: the members without a model.
        hop_us: what a round pays for crossing between two workers, until it has been observed.
        state_directory: where what it learns is kept, for the router that comes after it.
    """

    def __init__(
        self,
        config_hash: str,
        secret: bytes,
        workers: Mapping[str, str],
        slims: Sequence[str],
        namespace: str,
        lookups: Mapping[str, LookupMember],
        hop_us: float,
        state_directory: Path,
    ) -> None:
        self._config_hash = config_hash
        self._secret = secret
        self._workers = {member: ray.get_actor(name, namespace) for member, name in workers.items()}
        *drafters, target = workers
        self._tenants = {name: (name,) for name in drafters} | {target: (*slims, target)}
        """Members by the worker that they are in, which has the name of its model."""
        devices = {m: worker for worker, members in self._tenants.items() for m in members}
        self._router = Router(list(devices), lookups, devices=devices, hop_us=hop_us)
        self._addresses: dict[str, Address] = {}
        self._memory = Memory(
            self._router, StateFile(state_directory, config_hash), config_hash, secret
        )
        self._learned = self._memory.recall()
        """Whether there is something to decide about."""
        self._decided_at = -PERIOD_S
        self._cpu_s: defaultdict[str, float] = defaultdict(float)
        """Of this thread, by what it was spent on."""
        loop = asyncio.get_running_loop()
        self._deciding = loop.create_task(self._run_for_ever())
        self._saving = loop.create_task(self._memory.save_for_ever())

    async def identity(self) -> tuple[str, bytes, dict[str, Any]]:
        """The pool's config hash, its secret and its workers."""
        return self._config_hash, self._secret, self._workers

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
        self._deciding.cancel()
        await self._memory.save()

    async def _run_for_ever(self) -> None:
        asked = {name: self._ask(name) for name in self._workers}
        pending = {asyncio.ensure_future(task): name for name, task in asked.items()}
        while True:
            done, _ = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            changed = False
            for task in done:
                name = pending.pop(task)
                answer = task.result()
                changed |= self._heard(name, answer)
                pending[asyncio.ensure_future(self._ask(name, self._pause_s(name, answer)))] = name
            if changed:
                reachable = [name for name in self._workers if name in self._addresses]
                await self._tell(reachable, "set_directory", self._addresses)
            target = list(self._workers)[-1]
            decided = self._decide()
            # The numbers of plans must go on from there.
            self._memory.has_news |= decided
            if decided or (changed and target in self._addresses):
                await self._tell([target], "set_plans", self._router.table)

    def _decide(self) -> bool:
        """Whether the plans have changed. Workers answer one by one, decisions are for all."""
        now, now_s = time.monotonic(), time.time()
        is_early = now - self._decided_at < PERIOD_S
        if not self._learned or is_early or not self._router.is_due(now_s):
            return False
        self._learned, self._decided_at = False, now
        with self._spending("deciding"):
            return self._router.decide(now_s) is not None

    @contextmanager
    def _spending(self, on: str) -> Iterator[None]:
        began_s = time.thread_time()
        try:
            yield
        finally:
            self._cpu_s[on] += time.thread_time() - began_s

    async def _ask(self, name: str, after_s: float = 0.0) -> _Answer | None:
        await asyncio.sleep(after_s)
        worker = self._workers[name]
        try:
            address, observations = await worker.observe.remote()
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
            for observations in measured:
                # The time of day: what was measured outlives this process, perhaps this machine.
                with self._spending("observing"):
                    self._router.observe(observations, time.time())
                self._learned |= observations.has_any
                self._memory.has_news |= observations.has_any
        return self._addresses.get(name) != before

    def _pause_s(self, name: str, answer: _Answer | None) -> float:
        """How long after this answer the worker is asked again."""
        if answer is None:
            return PERIOD_S
        has_news = any(observations.has_any for observations in answer[1])
        is_in_doubt = has_news and self._router.latency.is_in_doubt(name)
        return _DOUBT_PERIOD_S if is_in_doubt else _CALM_PERIOD_S

    async def _tell(self, names: Sequence[str], method: str, argument: object) -> None:
        calls = [getattr(self._workers[name], method).remote(argument) for name in names]
        for name, call in zip(names, calls, strict=True):
            try:
                await asyncio.wait_for(call, _CALL_TIMEOUT_S)
            except (RayActorError, TimeoutError) as error:
                logger.warning("%s.%s: %s", name, method, type(error).__name__)
