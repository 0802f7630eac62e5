"""The router's choice against the best static chain and knobs of a full sweep, per task.

    python -m benchmarks.regret --split dev --passes 7 --json
    python -m benchmarks.regret --split eval --tasks humaneval,mt_bench --temperature 0.8 --json

For each task every chain is swept over its draft lengths, in lock-step and drafting ahead, by
successive halving: all arms on few prompts, the better half on more. The best ones and the target
alone then run by turns over all of the task's prompts, which is a pass; the best by its median over
the passes is the task's static arm. With the target alone and the router's choice it runs by turns
in other passes, or it would be the luckiest of several, and behind three of the router's alone that
are not counted: how fast it learns a new task is measured by ``benchmarks.adapts``. Regret is the
router's tokens per second over those of the static arm. One request at a time, without a prefix
cache. The last row is the mixture of all tasks, against the best single arm of them all.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import product

from tqdm import tqdm

from benchmarks.arms import comparison_arguments
from benchmarks.pools import without_prefix_cache
from benchmarks.prompts import read_prompts
from benchmarks.race import Race, tokens_per_second
from benchmarks.report import add_json_argument, print_report
from benchmarks.statistics import median_interval
from specrouter_dist.cli.backends import open_backend
from specrouter_dist.cli.options import BackendName
from specrouter_dist.cli.session import open_pool
from specrouter_dist.config import Plan, SamplingParams
from specrouter_dist.pools.loading import Pool
from specrouter_dist.routing.planner import Candidate, to_plan
from specrouter_dist.serving.backend import PoolBackend
from specrouter_dist.serving.calibration import pair_chains
from specrouter_dist.serving.results import GenerateRequest
from specrouter_dist.speculation.messages import TokenArray
from specrouter_dist.text.tokenizer import Tokenizer

_LENGTHS = (2, 3, 4, 5, 6, 8, 12)
_UPPER_LENGTHS = (2, 4, 6)
_AHEADS = ((0, 0), (1, 1), (1, 4), (2, 1), (2, 4))
"""On so many of the last edges drafts are made ahead; and how many blocks are taken at once."""
_PROMPTS_PER_HEAT = (4, 6)
"""Of the halving; each heat leaves half of the arms."""
_FINALISTS = 3
_WARM_PASSES = 3
_UNKNOWN_US = 1e4
_MOST_PROMPTS = 200
"""Of a task, that are looked through."""


def static_plans(chains: Sequence[tuple[str, ...]], *, ahead: bool) -> Iterator[Plan]:
    """Every chain with every choice of lengths, and of drafting ahead where that can be."""
    for chain in chains:
        upper = [_UPPER_LENGTHS] * (len(chain) - 2)
        lengths = product(*upper, _LENGTHS) if len(chain) > 1 else [()]
        num_edges = len(chain) - 1
        ways = [(num, most) for num, most in _AHEADS if num <= num_edges and (ahead or not num)]
        for choice, (num_ahead, most) in product(lengths, ways):
            aheads = (0,) * (num_edges - num_ahead) + (most,) * num_ahead
            yield to_plan(Candidate(chain, tuple(choice), _UNKNOWN_US, aheads), 0)


def describe(plan: Plan | None) -> str:
    """As in the table."""
    if plan is None:
        return "auto"
    lengths = [
        f"{edge.patience} to {edge.burst} ahead" if edge.drafts_ahead else str(edge.patience)
        for edge in plan.edges
    ]
    chain = " -> ".join(plan.chain)
    return f"{chain} [{', '.join(lengths)}]" if lengths else chain


class Sweep:
    """Static plans and the router's choice over one task's prompts."""

    def __init__(
        self, backend: PoolBackend, prompts: Sequence[TokenArray], sampling: SamplingParams
    ) -> None:
        self._race = Race(backend)
        self._prompts = prompts
        self._sampling = sampling

    @property
    def num_differing(self) -> int:
        """Texts that are not the first of their prompt."""
        return self._race.num_differing

    def speed(self, plan: Plan | None, count: int) -> float:
        """Tokens per second over the first ``count`` prompts, one after the other."""
        return tokens_per_second(self._race.run(self._arm(plan)[:count]))

    def _arm(self, plan: Plan | None) -> list[GenerateRequest]:
        chain = None if plan is None else plan.chain
        return [
            GenerateRequest(ids, self._sampling.model_copy(update={"seed": seed}), chain, plan)
            for seed, ids in enumerate(self._prompts)
        ]

    def finalists(self, plans: list[Plan]) -> list[Plan]:
        """The best static arms, by successive halving."""
        for count in _PROMPTS_PER_HEAT:
            arms = tqdm(plans, desc=f"sweep of {len(plans)}", leave=False)
            speeds = [self.speed(plan, count) for plan in arms]
            order = sorted(range(len(plans)), key=lambda i: -speeds[i])
            plans = [plans[i] for i in order[: max(_FINALISTS, len(plans) // 2)]]
        return plans[:_FINALISTS]

    def passes(self, plans: Sequence[Plan | None], count: int) -> list[list[float]]:
        """Speeds of every arm in every pass, by turns."""
        results = self._race.passes([self._arm(plan) for plan in plans], count)
        return [[tokens_per_second(found) for found in of_arm] for of_arm in results]


def compare(sweep: Sweep, finalists: Sequence[Plan], alone: Plan, passes: int) -> dict[str, object]:
    """One row: the router against the best of the finalists and the target alone."""
    static = [alone, *(plan for plan in finalists if plan.chain != alone.chain)]
    trials = [statistics.median(speeds) for speeds in sweep.passes(static, passes)]
    best = static[trials.index(max(trials))]
    sweep.passes([None], _WARM_PASSES)
    arms: list[Plan | None] = [None, *dict.fromkeys((alone, best))]
    speeds = dict(zip(arms, sweep.passes(arms, passes), strict=True))

    def over(plan: Plan) -> dict[str, object]:
        return asdict(
            median_interval([a / b for a, b in zip(speeds[None], speeds[plan], strict=True)])
        )

    return {
        "auto_over_best_static": over(best),
        "auto_over_alone": over(alone),
        "best_static": describe(best),
        "tokens_per_second": {describe(arm): statistics.median(of) for arm, of in speeds.items()},
        "trials": dict(zip(map(describe, static), trials, strict=True)),
        "num_passes": passes,
        "num_differing": sweep.num_differing,
    }


def fitting_prompts(
    pool: Pool, arguments: argparse.Namespace, room: int
) -> dict[str, list[TokenArray]]:
    """The first prompts of each task that have at most ``room`` tokens."""
    tokenizer = Tokenizer.load(pool.directories[pool.config.target.name])
    tasks = arguments.tasks.split(",") if arguments.tasks else ()
    prompts: dict[str, list[TokenArray]] = {}
    for prompt in read_prompts(arguments.data, arguments.split, _MOST_PROMPTS, tasks):
        of_task = prompts.setdefault(prompt.task, [])
        if len(of_task) < arguments.per_task and len(ids := tokenizer.encode(prompt.text)) <= room:
            of_task.append(ids)
    return {task: of_task for task, of_task in prompts.items() if of_task}


def run(backend: PoolBackend, arguments: argparse.Namespace) -> dict[str, object]:
    """A row per task, and one for the mixture."""
    pool, report = open_pool(arguments.pool, dtype=None)
    target = pool.config.target.name
    chains = sorted({*pair_chains(pool, report)}, key=len)
    plans = list(static_plans(chains, ahead=arguments.backend == "ray"))
    alone = next(plan for plan in plans if plan.chain == (target,))
    sampling = SamplingParams(temperature=arguments.temperature, max_tokens=arguments.max_tokens)
    room = report.member(target).context_tokens - arguments.max_tokens
    prompts = fitting_prompts(pool, arguments, room)
    rows: dict[str, object] = {}
    champions: dict[Plan, None] = {}
    for task, ids in tqdm(prompts.items(), desc="tasks"):
        sweep = Sweep(backend, ids, sampling)
        finalists = sweep.finalists(plans)
        champions |= dict.fromkeys(finalists[:2])
        rows[task] = compare(sweep, finalists, alone, arguments.passes)
        # A task takes minutes: what is known is told, should the rest never come.
        tqdm.write(json.dumps({task: rows[task]}), file=sys.stderr)
    mixed = [ids for group in zip(*prompts.values(), strict=False) for ids in group]
    sweep = Sweep(backend, mixed, sampling)
    rows["mixture"] = compare(sweep, list(champions), alone, arguments.passes)
    return rows


def main() -> None:
    """Parses the arguments, measures, prints."""
    parser = comparison_arguments(__doc__)
    parser.add_argument("--tasks", help="by comma; of dev, or suites of eval; else all")
    parser.add_argument("--per-task", type=int, default=8)
    parser.add_argument("--passes", type=int, default=7)
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--max-tokens", type=int, default=64)
    add_json_argument(parser)
    arguments = parser.parse_args()
    pool, report = open_pool(arguments.pool, dtype=None)
    with open_backend(
        without_prefix_cache(pool), report, BackendName(arguments.backend)
    ) as backend:
        rows = run(backend, arguments)
    print_report("regret", arguments, {"rows": rows})


if __name__ == "__main__":
    main()
