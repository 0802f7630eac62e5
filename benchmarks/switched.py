"""Requests of one task, then of another: after how many target rounds is the plan the best one?

The best plan of a task is what the router settles on when that task runs on for long; it is weighed
by what the router knows then. A request's plan is *best* when it is the same chain and
predicted to be no more than 3 % slower, and *as good* when it is that fast with any chain. Rounds
count over all requests since the switch. Where requests do not name their task the router sees only
texts. In a ``conversation`` each prompt of the new task follows a prompt of the old one.
"""

import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path

from tqdm import tqdm

from benchmarks.known import Known, newer_snapshot, plan_of
from benchmarks.regret import describe
from specrouter_dist.config import Plan, SamplingParams
from specrouter_dist.pools.loading import Pool
from specrouter_dist.routing.traffic import Traffic
from specrouter_dist.serving.backend import PoolBackend
from specrouter_dist.serving.results import GenerateRequest, GenerateResult, PlanUse
from specrouter_dist.speculation.messages import TokenArray

_LAST = 12
"""Requests whose last plans say what a task has settled on."""

Prompts = Mapping[str, Sequence[TokenArray]]
"""By task."""


@dataclass(frozen=True, slots=True)
class Best:
    """What a task that runs on has settled on."""

    plan: Plan
    known: Known

    def is_as_good(self, use: PlanUse) -> bool:
        """About as fast."""
        return self.known.is_as_good(plan_of(use), self.plan)

    def is_best(self, use: PlanUse) -> bool:
        """About as fast with the same chain."""
        return use.plan.chain == self.plan.chain and self.is_as_good(use)


class Switches:
    """Requests one after the other, by task.

    Args:
        state: where the router's snapshots are.
        settle: requests after which a task has settled.
        watched: requests after a switch that are looked at.
        tells_tasks: requests name their task.
    """

    def __init__(
        self,
        backend: PoolBackend,
        pool: Pool,
        prompts: Prompts,
        sampling: SamplingParams,
        state: Path,
        *,
        settle: int,
        watched: int,
        tells_tasks: bool,
    ) -> None:
        self._backend = backend
        self._pool = pool
        self._prompts = {task: cycle(of_task) for task, of_task in prompts.items()}
        self._sampling = sampling
        self._state = state
        self._settle = settle
        self._watched = watched
        self._tells_tasks = tells_tasks

    def run(self, task: str, count: int, prompts: Iterator[TokenArray]) -> list[GenerateResult]:
        """So many requests of a task."""
        results: list[GenerateResult] = []
        for prompt in islice(prompts, count):
            request = GenerateRequest(prompt, self._sampling, task=self._told(task))
            results += self._backend.generate([request], concurrency=1)
        return results

    def settle(self, task: str) -> Best:
        """The task for long."""
        self.run(task, self._settle - _LAST, self._prompts[task])
        began = time.time()
        last = self.run(task, _LAST, self._prompts[task])
        plans = Counter(plan_of(result.metrics.plans[-1]) for result in last)
        snapshot = newer_snapshot(self._state, began)
        known = Known.read(self._pool, snapshot, Traffic.of(self._sampling, self._told(task)))
        return Best(plans.most_common(1)[0][0], known)

    def _told(self, task: str) -> str:
        return task if self._tells_tasks else ""

    def switch(self, before: str, to: str, *, conversation: bool) -> dict[str, object]:
        """One row: to another task from one that has settled."""
        prompts: Iterator[TokenArray] = self._prompts[to]
        if conversation:
            pairs = zip(self._prompts[before], self._prompts[to], strict=False)
            prompts = (old + new for old, new in pairs)
        results = self.run(to, self._watched, prompts)
        best = self.settle(to)
        return {
            "from": before,
            "to": to,
            "conversation": conversation,
            "best": describe(best.plan),
            "rounds_until_best": rounds_until(results, best.is_best),
            "rounds_until_as_good": rounds_until(results, best.is_as_good),
            "rounds_of_each_until_best": [
                rounds_until([result], best.is_best) for result in results
            ],
            "rounds_of_each": [result.metrics.num_rounds for result in results],
            "plan_of_each": [describe(plan_of(result.metrics.plans[-1])) for result in results],
        }


def rounds_until(
    results: Sequence[GenerateResult], is_good: Callable[[PlanUse], bool]
) -> int | None:
    """Target rounds until the first plan that is good; None: there is none."""
    num_before = 0
    for result in results:
        for use in result.metrics.plans:
            if is_good(use):
                return num_before + use.after_rounds
        num_before += result.metrics.num_rounds
    return None


def measure(switches: Switches, tasks: Sequence[str], times: int) -> dict[str, object]:
    """Each task to the next one, so many times, each time within conversations too."""
    switches.settle(tasks[0])
    pairs = list(zip(tasks, (*tasks[1:], tasks[0]), strict=True))
    rows = [
        switches.switch(before, to, conversation=conversation)
        for _ in tqdm(range(times), desc="switches", leave=False)
        for conversation in (False, True)
        for before, to in pairs
    ]
    found = [row["rounds_until_best"] for row in rows]
    within = [int(str(rounds)) for rounds in found if rounds is not None]
    return {
        "median_rounds_until_best": statistics.median(within) if within else None,
        "within_20_rounds": sum(rounds <= 20 for rounds in within) / len(rows),
        "never": len(rows) - len(within),
        "rows": rows,
    }
