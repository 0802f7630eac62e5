"""Synthetic members: measured speed-up against what stage times and agreements allow.

    python -m benchmarks.synthetic --json                    # small shapes, one core, 3 minutes
    python -m benchmarks.synthetic --device cuda --json      # Llama-68M, 1.1B and 7B on one GPU

Every member is loaded by itself and its steps are timed, the engine alone, before the pool runs and
after it: ``target_step_us`` shows whether the machine was as fast all the time. From these and the
agreements in the pool file the planner's formula says what each chain could do if links, routing
and everything around the engine took no time, with the best blocks of that chain; and which chain
is the best: the bound of ``auto``. Then the pool runs: the target alone, each drafter before it,
all members, and ``auto``, one request at a time, without a prefix cache, interleaved in rotating
order. A pair is one prompt through an arm and through the target alone; a time is that of a token
behind the first.

``bandwidth_share`` says how near the target alone comes to reading its weights and cache as fast as
the device's memory allows: the engine's step, and tokens of the running pool.
"""

import argparse
import statistics
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from tqdm import trange

from benchmarks.asynchronous import devices_of
from benchmarks.pools import without_prefix_cache
from benchmarks.regret import describe
from benchmarks.report import add_json_argument, print_report
from benchmarks.stage_times import StageTimes, bandwidth_bytes_per_s, measure
from benchmarks.statistics import median_interval
from specrouter_dist.cli.backends import open_backend
from specrouter_dist.cli.options import BackendName
from specrouter_dist.cli.session import open_pool
from specrouter_dist.config import Plan, SamplingParams
from specrouter_dist.pools.loading import Pool, model_members
from specrouter_dist.routing.costs import Regime
from specrouter_dist.routing.planner import Candidate, Planner, to_plan
from specrouter_dist.routing.traffic import GREEDY
from specrouter_dist.serving.backend import PoolBackend
from specrouter_dist.serving.results import GenerateRequest, GenerateResult
from specrouter_dist.speculation.messages import TOKEN_TYPECODE, TokenArray

_POOLS = {"cpu": "synthetic-mini", "cuda": "synthetic-llama2"}
_ALONE = Regime(GREEDY)


@dataclass(frozen=True, slots=True)
class Arm:
    """Something that is measured."""

    plan: Plan | None
    """None: the router's choice."""

    def best(self, planner: Planner) -> Candidate:
        """What it could do: the plan, or the best one that there is."""
        if self.plan is None:
            return planner.candidates(_ALONE)[0]
        found = planner.predict(self.plan, _ALONE)
        assert found is not None, "all members have been timed"
        lengths = tuple(edge.patience for edge in self.plan.edges)
        return Candidate(self.plan.chain, lengths, found.predicted_us)


def all_arms(pool: Pool, planner: Planner) -> list[Arm]:
    """The target alone, each drafter before it, all members, and the router's choice."""
    *drafters, target = (member.name for member in model_members(pool))
    chains = [(target,), *((drafter, target) for drafter in drafters)]
    if len(drafters) > 1:
        chains.append((*drafters, target))
    found = (planner.evaluate(chain, _ALONE) for chain in chains)
    return [*(Arm(to_plan(each, 0)) for each in found if each is not None), Arm(None)]


def make_prompts(count: int, num_tokens: int, num_ids: int) -> list[TokenArray]:
    """Random ids; whatever they are, the texts behind them are synthetic."""
    rng = np.random.default_rng(0)
    return [
        array(TOKEN_TYPECODE, rng.integers(8, num_ids, num_tokens).tolist()) for _ in range(count)
    ]


def run(
    backend: PoolBackend,
    arms: Sequence[Arm],
    prompts: Sequence[TokenArray],
    warm: int,
    max_tokens: int,
) -> list[list[GenerateResult]]:
    """Every arm over every prompt, in rotating order; by arm. The first ``warm`` do not count.

    Closes the backend.
    """
    sampling = SamplingParams(temperature=0.0, max_tokens=max_tokens)
    results: list[list[GenerateResult]] = [[] for _ in arms]
    with backend:
        for turn in trange(len(prompts), desc="pairs", leave=False):
            for k in range(len(arms)):
                arm = (turn + k) % len(arms)
                request = GenerateRequest(prompts[turn], sampling, None, arms[arm].plan)
                (result,) = backend.generate([request], concurrency=1)
                if turn >= warm:
                    results[arm].append(result)
    return results


def token_us(result: GenerateResult) -> float:
    """Time of a token behind the first."""
    return 1e3 * result.metrics.generation_time_ms / (len(result.token_ids) - 1)


def compare(
    arm: Arm, results: Sequence[GenerateResult], alone: Sequence[GenerateResult], planner: Planner
) -> dict[str, object]:
    """One row."""
    best = arm.best(planner)
    alone_us = planner.latency.forward_us(planner.members[-1], 1)
    assert alone_us is not None, "all members have been timed"
    pairs = list(zip(map(token_us, results), map(token_us, alone), strict=True))
    rounds = sum(result.metrics.num_rounds for result in results)
    return {
        "arm": describe(arm.plan),
        "speedup": asdict(median_interval([base / us for us, base in pairs])),
        "speedup_in_theory": alone_us / best.predicted_us,
        "best_in_theory": describe(to_plan(best, 0)),
        "token_us": statistics.median(us for us, _ in pairs),
        "bound_us": best.predicted_us,
        "time_over_bound": asdict(median_interval([us / best.predicted_us for us, _ in pairs])),
        "tokens_per_round": sum(len(result.token_ids) for result in results) / rounds,
        "chains": sorted({" -> ".join(result.chain) for result in results}),
        "num_differing": sum(
            a.token_ids != b.token_ids for a, b in zip(results, alone, strict=True)
        ),
    }


def bandwidth(times: StageTimes, device: str, measured_us: float) -> dict[str, float]:
    """How near the target alone comes to the device's memory."""
    bytes_per_s = bandwidth_bytes_per_s(device)
    bound_us = times.target_step_bytes / bytes_per_s * 1e6
    return {
        "gigabytes_per_s": bytes_per_s / 1e9,
        "step_bytes": times.target_step_bytes,
        "bound_us": bound_us,
        "bandwidth_share_of_step": bound_us / times.alone_us,
        "bandwidth_share_of_token": bound_us / measured_us,
    }


def draw(rows: Sequence[Mapping[str, object]], file: Path) -> None:
    """Speed-ups, measured beside those in theory."""
    figure = Figure(figsize=(9, 1 + 0.7 * len(rows)), layout="constrained")
    axes = figure.subplots()
    for place, row in enumerate(reversed(rows)):
        speedup, theory = row["speedup"], row["speedup_in_theory"]
        assert isinstance(speedup, dict) and isinstance(theory, float)
        low, median, high = (speedup[key] for key in ("low", "median", "high"))
        error = [[median - low], [high - median]]
        label = ("measured", "in theory") if place == 0 else (None, None)
        axes.barh(place + 0.2, median, 0.4, xerr=error, color="tab:blue", label=label[0])
        axes.barh(place - 0.2, theory, 0.4, color="tab:gray", label=label[1])
    axes.set_yticks(range(len(rows)), [str(row["arm"]) for row in reversed(rows)])
    axes.set(xlabel="speed-up over the target alone")
    axes.legend()
    figure.savefig(file, dpi=120)


def main() -> None:
    """Parses the arguments, measures, draws, prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pool", help="default: synthetic-mini, on cuda synthetic-llama2")
    parser.add_argument("--backend", choices=[b.value for b in BackendName], default="local")
    parser.add_argument("--device", choices=list(_POOLS), default="cpu")
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--warm", type=int, default=8, help="pairs before, the router learns")
    parser.add_argument("--prompt-tokens", type=int, default=64)
    parser.add_argument("--max-tokens", type=int, default=96)
    parser.add_argument("--repeats", type=int, default=7, help="of each step that is timed")
    parser.add_argument("--plot", type=Path, help="a file to draw into")
    add_json_argument(parser)
    arguments = parser.parse_args()
    arguments.pool = arguments.pool or _POOLS[arguments.device]
    pool, report = open_pool(arguments.pool, dtype=None)
    if pool.config.synthetic is None:
        parser.error(f"--pool: {arguments.pool!r} is not synthetic")
    pool = without_prefix_cache(pool)
    context_tokens = arguments.prompt_tokens + arguments.max_tokens // 2
    devices = devices_of(pool, arguments.backend)
    before = measure(pool, report, context_tokens=context_tokens, repeats=arguments.repeats)
    arms = all_arms(pool, before.planner(pool, devices))
    prompts = make_prompts(
        arguments.warm + arguments.pairs, arguments.prompt_tokens, report.num_ids
    )
    backend = BackendName(arguments.backend)
    running = open_backend(pool, report, backend)
    results = run(running, arms, prompts, arguments.warm, arguments.max_tokens)
    after = measure(pool, report, context_tokens=context_tokens, repeats=arguments.repeats)
    times = before + after
    planner = times.planner(pool, devices)
    rows = [
        compare(arm, of_arm, results[0], planner) for arm, of_arm in zip(arms, results, strict=True)
    ]
    if arguments.plot is not None:
        draw(rows, arguments.plot)
    alone_us = statistics.median(map(token_us, results[0]))
    content = {
        "target_alone": bandwidth(times, arguments.device, alone_us),
        "target_step_us": {"before": before.alone_us, "after": after.alone_us},
        "rows": rows,
        "steps_us": {
            f"{name}, {rows} rows, {drafts} drafts": round(us, 1)
            for (name, rows, drafts), us in times.steps_us.items()
        },
    }
    print_report("synthetic", arguments, content)


if __name__ == "__main__":
    main()
