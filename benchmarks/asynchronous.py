"""Lock-step, drafting ahead and for outcomes, in two and three levels: measured, and simulated.

    python -m benchmarks.asynchronous --backend local --passes 7 --json

Every arm is a plan with knobs that do not change; one request at a time, without a prefix cache,
interleaved; a pass is all prompts. Then each arm is simulated: on the very texts, with what every
member would have drawn at each position of them, and with the times that the router says in this
run (one table for all arms). A time is that of a token behind the first of each text.

What is compared beside the time explains the gap: ``tokens_per_round`` shows whether the same
rounds were made, ``forwards_us`` what the forwards took (measured: the engine alone; simulated: the
engine thread's whole turns), ``gap_us_per_step`` what each step of any member took beyond.
"""

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml
from tqdm import tqdm

from benchmarks.arms import comparison_arguments
from benchmarks.joint_picks import record
from benchmarks.live_profile import Heard, Times, for_plan, make_profile
from benchmarks.pools import without_prefix_cache
from benchmarks.prompts import read_prompts
from benchmarks.regret import describe
from benchmarks.report import add_json_argument, print_report
from benchmarks.statistics import median_interval
from specrouter_dist.cli.backends import open_backend
from specrouter_dist.cli.options import BackendName
from specrouter_dist.cli.session import open_pool
from specrouter_dist.config import LookupMember, Plan, SamplingParams
from specrouter_dist.pools.loading import (
    Pool,
    lookup_members,
    model_names,
    slim_members,
)
from specrouter_dist.routing.planner import Candidate, to_plan
from specrouter_dist.serving.backend import PoolBackend
from specrouter_dist.serving.results import GenerateRequest, GenerateResult
from specrouter_dist.simulation.profile import Profile, Workload
from specrouter_dist.simulation.recorded import Recording
from specrouter_dist.simulation.results import Results
from specrouter_dist.simulation.world import World
from specrouter_dist.speculation.messages import TokenArray
from specrouter_dist.text.tokenizer import Tokenizer

_UNKNOWN_US = 1e4
_OUTCOMES = 4
_ARMS: tuple[tuple[tuple[str, ...], tuple[int, ...]], ...] = (
    (("small", "target"), (4,)),
    (("medium", "target"), (4,)),
    (("small", "medium", "target"), (3, 5)),
    (("lookup", "medium", "target"), (3, 5)),
)
"""Chains with the lengths of their blocks."""


def all_plans(lookups: Sequence[str]) -> list[Plan]:
    """The target alone, and each chain in lock-step, with its lowest edge ahead, with all ahead,
    and in lock-step with a drafter that prepares for outcomes."""
    plans = [Plan(chain=("target",))]
    for chain, lengths in _ARMS:
        # A lookup answers every word at once: there is nothing to do ahead.
        most_ahead = len(lengths) - (chain[0] in lookups)
        for num_ahead in range(most_ahead + 1):
            aheads = (0,) * (len(lengths) - num_ahead) + (1,) * num_ahead
            plans.append(to_plan(Candidate(chain, lengths, _UNKNOWN_US, aheads), 0))
        if chain[0] not in lookups:
            plans.append(_prepared(to_plan(Candidate(chain, lengths, _UNKNOWN_US), 0)))
    return plans


def _prepared(plan: Plan) -> Plan:
    """The drafter uses its spare time for the likely outcomes of a verify."""
    first, *others = plan.edges
    edges = (first.model_copy(update={"outcomes": _OUTCOMES}), *others)
    return plan.model_copy(update={"edges": edges})


@dataclass(slots=True)
class Measured:
    """What one arm did."""

    token_us: list[float] = field(default_factory=list)
    """Per pass."""
    results: list[GenerateResult] = field(default_factory=list)
    """Of the last pass."""

    def add_pass(self, results: list[GenerateResult]) -> None:
        """One more run of all prompts."""
        total_ms = sum(result.metrics.generation_time_ms for result in results)
        self.token_us.append(1e3 * total_ms / _num_timed(results))
        self.results = results


def _num_timed(results: Sequence[GenerateResult]) -> int:
    """Tokens behind the first of each text."""
    return sum(len(result.token_ids) - 1 for result in results)


def measure(
    backend: PoolBackend,
    plans: Sequence[Plan],
    prompts: Sequence[TokenArray],
    sampling: SamplingParams,
    passes: int,
) -> tuple[list[Measured], list[Heard]]:
    """Every arm in every pass, in rotating order; and what the router said after each.

    One pass is run before and not counted.
    """
    measured = [Measured() for _ in plans]
    explanations: list[Heard] = []
    for turn in tqdm(range(-1, passes), desc="passes"):
        for k in range(len(plans)):
            arm = (turn + k) % len(plans)
            requests = [
                GenerateRequest(ids, sampling.model_copy(update={"seed": seed}), None, plans[arm])
                for seed, ids in enumerate(prompts)
            ]
            results = list(backend.generate(requests, concurrency=1))
            if turn >= 0:
                measured[arm].add_pass(results)
                explanations.append((plans[arm], backend.running.explain()))
    return measured, explanations


@dataclass(frozen=True, slots=True)
class Simulated:
    """The same arm under a virtual clock."""

    runs: Sequence[Results]
    """One per text."""

    @property
    def num_timed(self) -> int:
        """Tokens behind the first of each text."""
        return sum(run.num_tokens - 1 for run in self.runs)

    @property
    def token_us(self) -> float:
        """Time per token behind the first."""
        total_ms = sum(1e3 * run.duration_s - run.first_token_ms_p50 for run in self.runs)
        return 1e3 * total_ms / self.num_timed

    @property
    def tokens_per_round(self) -> float:
        """Of the target."""
        rounds = sum(run.num_tokens / run.mean_acceptance_length for run in self.runs)
        return sum(run.num_tokens for run in self.runs) / rounds

    @property
    def forwards_us(self) -> float:
        """Time of all members' forwards per token, prompts included."""
        total_ms = sum(run.device_ms_per_token * run.num_tokens for run in self.runs)
        return 1e3 * total_ms / sum(run.num_tokens for run in self.runs)

    def steps_per_token(self) -> dict[str, float]:
        """Of every member that made any."""
        names = self.runs[0].work
        counts = {name: sum(run.work[name].num_steps for run in self.runs) for name in names}
        return {name: count / self.num_timed for name, count in counts.items() if count}


def simulate(
    profile: Profile,
    recordings: Sequence[Recording],
    lookups: dict[str, LookupMember],
) -> Simulated:
    """Each text in a world of its own, since requests came one at a time."""
    runs = []
    for recording in recordings:
        workload = Workload(
            num_requests=1,
            concurrency=1,
            prompt_tokens=len(recording.start),
            output_tokens=recording.num_output_tokens,
        )
        world = World(profile.model_copy(update={"workload": workload}), recording, lookups)
        runs.append(world.run())
    return Simulated(runs)


def _name(plan: Plan) -> str:
    is_prepared = any(edge.outcomes for edge in plan.edges)
    return describe(plan) + (f", {_OUTCOMES} outcomes" if is_prepared else "")


def compare(plan: Plan, measured: Measured, simulated: Simulated) -> dict[str, object]:
    """One row."""
    token_us = statistics.median(measured.token_us)
    steps = simulated.steps_per_token()
    results = measured.results
    num_tokens = sum(len(result.token_ids) for result in results)
    num_rounds = sum(result.metrics.num_rounds for result in results)
    device_us = 1e3 * sum(
        (result.metrics.device_ms_per_token or 0.0) * len(result.token_ids) for result in results
    )
    gap_us = token_us - simulated.token_us
    return {
        "arm": _name(plan),
        "measured_over_simulated": asdict(
            median_interval([us / simulated.token_us for us in measured.token_us])
        ),
        "token_us": {"measured": token_us, "simulated": simulated.token_us},
        "tokens_per_round": {
            "measured": num_tokens / num_rounds,
            "simulated": simulated.tokens_per_round,
        },
        "forwards_us": {
            "measured": device_us / num_tokens,
            "simulated": simulated.forwards_us,
        },
        "steps_per_token": steps,
        "gap_us": gap_us,
        "gap_us_per_step": gap_us / sum(steps.values()),
    }


def summarise(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Over all arms."""
    ratios = [row["measured_over_simulated"]["median"] for row in rows]
    gaps = [abs(ratio - 1) for ratio in ratios]
    return {
        "median_ratio": statistics.median(ratios),
        "median_gap": statistics.median(gaps),
        "largest_gap": max(gaps),
    }


def devices_of(pool: Pool, backend: str) -> dict[str, str]:
    """In one process one thread computes for all."""
    target = pool.config.target.name
    slims = {member.name for member in slim_members(pool)}
    return {
        name: "local" if backend == "local" else target if name in slims else name
        for name in model_names(pool)
    }


def main() -> None:
    """Parses the arguments, measures, simulates, prints."""
    parser = comparison_arguments(__doc__)
    parser.add_argument("--per-task", type=int, default=3)
    parser.add_argument("--passes", type=int, default=7)
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--write-profile", type=Path, help="a file for specrouter simulate")
    add_json_argument(parser)
    arguments = parser.parse_args()
    pool, report = open_pool(arguments.pool, dtype=None)
    pool = without_prefix_cache(pool)
    tokenizer = Tokenizer.load(pool.directories[pool.config.target.name])
    texts = read_prompts(arguments.data, arguments.split, arguments.per_task)
    prompts = [tokenizer.encode(prompt.text) for prompt in texts]
    sampling = SamplingParams(temperature=arguments.temperature, max_tokens=arguments.max_tokens)
    lookups = {member.name: member for member in lookup_members(pool)}
    plans = all_plans(list(lookups))
    with open_backend(pool, report, BackendName(arguments.backend)) as backend:
        measured, explanations = measure(backend, plans, prompts, sampling, arguments.passes)
    alone = measured[0].results
    num_differing = sum(
        a.token_ids != b.token_ids
        for arm in measured
        for a, b in zip(alone, arm.results, strict=True)
    )
    recordings = record(pool, report, prompts, alone, sampling)
    times = Times.of(explanations)
    profile = make_profile(
        f"{pool.config.name}-live", times, recordings, devices_of(pool, arguments.backend)
    )
    if arguments.write_profile is not None:
        content = profile.model_dump(exclude_defaults=True)
        arguments.write_profile.write_text(yaml.safe_dump(content, sort_keys=False))
    rows = [
        compare(plan, arm, simulate(for_plan(profile, times, plan), recordings, lookups))
        for plan, arm in zip(plans, measured, strict=True)
    ]
    results = {"summary": summarise(rows), "rows": rows, "num_differing": num_differing}
    hops = {" -> ".join(pair): us for pair, us in times.hops.items()}
    print_report("asynchronous", arguments, {**results, "hops_us": hops})


if __name__ == "__main__":
    main()
