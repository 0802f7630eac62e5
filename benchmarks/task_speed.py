"""What it is worth to tell tasks, in tokens per second: one mixture of all tasks' prompts through
all arms, interleaved, in an order that is drawn for each pass.

- ``alone``, ``base``, ``task``: the target; the base drafter, and the task's, above it.
- ``router``: free to choose, prompts told apart by the pool's classifier.
- ``label``: the same, but requests name what the data say (the oracle).
- ``no classifier``: all requests name one task: feedback alone.
- ``no feedback``: the plan that the router has for the prompt's task after the warm passes, kept
  fixed (the router itself has no such switch).
- ``random``: requests name a task at random.

Arms that name tasks name ones of their own, so none learns from another's requests.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from benchmarks.race import Arm, Race, tokens_per_second
from benchmarks.statistics import median_interval
from benchmarks.told_prompts import ToldPrompt
from specrouter_dist.config import Plan, SamplingParams
from specrouter_dist.routing.traffic import Traffic
from specrouter_dist.serving.backend import PoolBackend
from specrouter_dist.serving.results import GenerateRequest, GenerateResult

LEARNING = ("router", "label", "no classifier", "random")
"""Arms that have to see requests before they are as good as they get."""
RATIOS = (
    ("task", "base"),
    ("router", "alone"),
    ("router", "base"),
    ("router", "task"),
    ("router", "label"),
    ("router", "no classifier"),
    ("router", "no feedback"),
    ("router", "random"),
)

Runs = Mapping[str, Sequence[Sequence[GenerateResult]]]
"""By arm, the results of each pass, in the order of the prompts."""


@dataclass(frozen=True, slots=True)
class Arms:
    """Makes the requests of every arm.

    Attributes:
        target, base: names of members.
        drafters: members by task; a task without one has the base drafter.
    """

    target: str
    base: str
    drafters: Mapping[str, str]
    prompts: Sequence[ToldPrompt]
    sampling: SamplingParams

    def routed(self) -> dict[str, Arm]:
        """Those in which the router chooses."""
        tasks = sorted({prompt.task for prompt in self.prompts})
        drawn = np.random.default_rng(0).choice(tasks, len(self.prompts)).tolist()
        return {
            "router": self._arm(lambda _, __: {}),
            "label": self._arm(lambda _, prompt: {"task": f"label {prompt.label}"}),
            "no classifier": self._arm(lambda _, __: {"task": "any"}),
            "random": self._arm(lambda number, _: {"task": f"random {drawn[number]}"}),
        }

    def fixed(self) -> dict[str, Arm]:
        """Those with one chain, with the draft lengths that are known to be best in the task."""
        return {
            "alone": self._chained(lambda _: (self.target,)),
            "base": self._chained(lambda _: (self.base, self.target)),
            "task": self._chained(lambda task: (self.drafters.get(task, self.base), self.target)),
        }

    def planned(self, plans: Mapping[str, Plan]) -> dict[str, Arm]:
        """That with one plan for each task."""
        arm = self._arm(
            lambda _, prompt: {"plan": plans[prompt.task], "task": f"fixed {prompt.task}"}
        )
        return {"no feedback": arm}

    def _chained(self, chain_of: Callable[[str], tuple[str, ...]]) -> Arm:
        return self._arm(
            lambda _, prompt: {"chain": chain_of(prompt.task), "task": f"fixed {prompt.task}"}
        )

    def _arm(self, fields_of: Callable[[int, ToldPrompt], dict[str, Any]]) -> Arm:
        return [
            GenerateRequest(
                prompt.ids,
                self.sampling.model_copy(update={"seed": number}),
                **fields_of(number, prompt),
            )
            for number, prompt in enumerate(self.prompts)
        ]


def measure(backend: PoolBackend, arms: Arms, *, num_warm: int, num_passes: int) -> dict[str, Any]:
    """A row per task and one over all; what the router knows after ``num_warm`` passes is what
    arms without feedback are left with."""
    race, routed = Race(backend), arms.routed()
    race.passes([*routed.values(), *arms.fixed().values()], num_warm)
    table = backend.running.table()
    plans = {
        prompt.task: table.plan(Traffic.of(arms.sampling, prompt.task)) for prompt in arms.prompts
    }
    every = {**arms.fixed(), **routed, **arms.planned(plans)}
    runs = dict(zip(every, race.passes([*every.values()], num_passes), strict=True))
    return {
        "rows": _rows(arms.prompts, runs),
        "plans_without_feedback": {task: "→".join(plan.chain) for task, plan in plans.items()},
        "num_passes": num_passes,
        "num_differing": race.num_differing,
    }


def _rows(prompts: Sequence[ToldPrompt], runs: Runs) -> dict[str, Any]:
    tasks = [prompt.task for prompt in prompts]
    rows = {}
    for task in (*dict.fromkeys(tasks), "all"):
        places = [at for at, own in enumerate(tasks) if task in (own, "all")]
        own = {
            arm: [[results[at] for at in places] for results in passes]
            for arm, passes in runs.items()
        }
        rows[task] = _row(own)
    return rows


def _row(runs: Runs) -> dict[str, Any]:
    speeds = {arm: [*map(tokens_per_second, passes)] for arm, passes in runs.items()}
    return {
        "num_prompts": len(runs["alone"][0]),
        "tokens_per_second": {arm: asdict(median_interval(own)) for arm, own in speeds.items()},
        "ratios": {
            f"{arm} over {other}": asdict(
                median_interval([a / b for a, b in zip(speeds[arm], speeds[other], strict=True)])
            )
            for arm, other in RATIOS
        },
        "chains": {arm: _chains(runs[arm]) for arm in LEARNING},
    }


def _chains(passes: Sequence[Sequence[GenerateResult]]) -> dict[str, int]:
    """How many requests ended with each chain, the most frequent first."""
    counts = Counter("→".join(result.chain) for results in passes for result in results)
    return dict(counts.most_common())
