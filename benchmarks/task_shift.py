"""A mixture of prompts that shifts half-way, to tasks of which the router has not seen a request.

First the free router gets the stream, then [base → target] and [task drafter → target] get it, so
that it learns nothing from them.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any

from tqdm import tqdm

from benchmarks.race import Race, tokens_per_second
from benchmarks.task_speed import Arms
from benchmarks.told_prompts import ToldPrompt, first_of_each
from specrouter_dist.serving.backend import PoolBackend
from specrouter_dist.serving.results import GenerateResult


@dataclass(frozen=True, slots=True)
class Half:
    """Half of the stream: its tasks, and its prompts in order."""

    tasks: Sequence[str]
    prompts: Sequence[ToldPrompt]


def halves_of(prompts: Sequence[ToldPrompt], tasks: Sequence[str], count: int) -> tuple[Half, Half]:
    """``count`` prompts of the first half of ``tasks``, and of the others; where there are fewer,
    they come again."""
    middle = len(tasks) // 2
    first, second = (
        Half(own, [*islice(cycle(first_of_each(prompts, own, count)), count)])
        for own in (tasks[:middle], tasks[middle:])
    )
    return first, second


def measure(backend: PoolBackend, arms: Arms, halves: tuple[Half, Half]) -> dict[str, Any]:
    """``arms``: of the prompts of both halves; ``backend``: of a pool that has just started."""
    race = Race(backend)
    streams = {"router": arms.routed()["router"], **arms.fixed()}
    results = {
        name: race.run(tqdm(arm, desc=f"shift, {name}", leave=False))
        for name, arm in streams.items()
    }
    middle = len(halves[0].prompts)
    rows = [
        _row(half, arms, {name: own[place] for name, own in results.items()})
        for half, place in zip(halves, (slice(middle), slice(middle, None)), strict=True)
    ]
    return {"halves": rows, "num_differing": race.num_differing}


def _row(half: Half, arms: Arms, results: Mapping[str, Sequence[GenerateResult]]) -> dict[str, Any]:
    """Of half of the stream."""
    chains = Counter("→".join(result.chain) for result in results["router"])
    drafters = {task: arms.drafters.get(task, arms.base) for task in half.tasks}
    return {
        "tasks": list(half.tasks),
        "num_prompts": len(half.prompts),
        "tokens_per_second": {name: tokens_per_second(own) for name, own in results.items()},
        "chains": dict(chains.most_common()),
        "until_own_drafter": {
            task: _until(half, task, drafter, results["router"])
            for task, drafter in drafters.items()
        },
    }


def _until(
    half: Half, task: str, drafter: str, results: Sequence[GenerateResult]
) -> dict[str, float] | None:
    """Since the half began: the task's requests, and the seconds of all, up to the end of the first
    with that drafter. None: there is none."""
    num_requests, total_ms = 0, 0.0
    for prompt, result in zip(half.prompts, results, strict=True):
        total_ms += result.metrics.time_to_first_token_ms + result.metrics.generation_time_ms
        if prompt.task == task:
            num_requests += 1
            if drafter in result.chain:
                return {"num_requests": num_requests, "seconds": total_ms / 1e3}
    return None
