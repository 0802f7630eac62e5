"""Tiered, lossy use of a slim verifier: speed against the target alone and against two levels that
lose nothing, and what it costs (docs/slim.md).

    python -m benchmarks.tiers --per-task 8 --plot tiers.svg --json

A pass is one prompt through all arms, in an order that rotates: the target alone, the drafters
above the target as the router has them, and in blocks of one length (``--draft-tokens``), so that
rejection rates compare, the drafters above the target and above a slim member that commits tokens,
at several thresholds (``--tiers accept,escalate[,max_unverified_share]``). Afterwards the target
and the drafter read all outputs: which tokens the target would have picked after the same ones
before, under the same noise, and how likely both find those that stand there.

``--pool`` may have a slim member; without one it gets ``--mask``.
"""

import argparse
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from tqdm import tqdm

from benchmarks.arms import comparison_arguments
from benchmarks.pools import with_slim, without_prefix_cache
from benchmarks.prompts import Prompt, read_prompts
from benchmarks.report import add_json_argument, print_report
from benchmarks.statistics import median_interval
from specrouter_dist.cli.backends import open_backend
from specrouter_dist.cli.options import BackendName
from specrouter_dist.cli.session import open_pool
from specrouter_dist.config import LossyParams, SamplingParams
from specrouter_dist.engine.factory import load_engine
from specrouter_dist.engine.interface import Engine, Extension, Picks
from specrouter_dist.pools.checks import PoolReport
from specrouter_dist.pools.loading import Pool, model_members, slim_members
from specrouter_dist.serving.backend import PoolBackend
from specrouter_dist.serving.results import GenerateRequest, GenerateResult
from specrouter_dist.serving.speculative import with_blocks
from specrouter_dist.speculation.messages import TOKEN_TYPECODE, TokenArray
from specrouter_dist.text.tokenizer import Tokenizer

_TIERS = ("0.9,0.6", "0.6,0.3", "0.3,0.1")
_MASK = "2.mlp,3.attention,3.mlp,4.mlp,5.attention,5.mlp"
"""Three tenths of the embedded target's parts, chosen one by one."""


Read = dict[str, "np.ndarray[Any, Any]"]
"""Numbers of the tokens of an output."""


@dataclass(frozen=True, slots=True)
class Arm:
    """One way to an output."""

    name: str
    chain: tuple[str, ...]
    lossy: LossyParams | None = None
    draft_tokens: int = 0
    """Length of the blocks; 0: as the router has them."""


@dataclass(frozen=True, slots=True)
class Output:
    """What one arm has made of one prompt."""

    prompt: TokenArray
    sampling: SamplingParams
    result: GenerateResult


@dataclass(frozen=True, slots=True)
class Pass:
    """One prompt through all arms."""

    task: str
    outputs: Mapping[str, Output]
    """By arm."""
    read: Mapping[str, Read]
    """What the models say of them."""


def arms_of(
    pool: Pool, drafters: Sequence[str], tiers: Sequence[str], draft_tokens: int
) -> list[Arm]:
    """The target alone first, then two levels, then those and the tiers in blocks of one length."""
    target, slim = pool.config.target.name, slim_members(pool)[0].name
    lossless = (*drafters, target)
    arms = [
        Arm("alone", (target,)),
        Arm("lossless", lossless),
        Arm(f"lossless, blocks of {draft_tokens}", lossless, None, draft_tokens),
    ]
    for text in tiers:
        bounds = dict(zip(LossyParams.model_fields, map(float, text.split(",")), strict=False))
        lossy = LossyParams.model_validate(bounds)
        arms.append(Arm(text, (*drafters, slim, target), lossy, draft_tokens))
    return arms


def run_passes(
    backend: PoolBackend,
    tokenizer: Tokenizer,
    prompts: Sequence[Prompt],
    arms: Sequence[Arm],
    sampling: SamplingParams,
) -> Iterator[Pass]:
    """All arms of one prompt after another; each begins every so many passes."""
    for number, prompt in enumerate(tqdm(prompts, desc="passes", leave=False)):
        ids = tokenizer.encode(prompt.text)
        own = sampling.model_copy(update={"seed": number})
        outputs = {}
        for arm in (*arms[number % len(arms) :], *arms[: number % len(arms)]):
            request = GenerateRequest(ids, own, arm.chain, lossy=arm.lossy)
            if arm.draft_tokens:
                plan = backend.running.plan_of(arm.chain, request.traffic)
                request = replace(request, plan=with_blocks(plan, arm.draft_tokens))
            (result,) = backend.generate([request], concurrency=1)
            outputs[arm.name] = Output(ids, own, result)
        yield Pass(prompt.task, outputs, {})


class Readers:
    """The target and the drafter, reading what stands in outputs."""

    def __init__(self, pool: Pool, report: PoolReport, drafter: str) -> None:
        members = {member.name: member for member in model_members(pool)}
        self._target, self._drafter = (
            load_engine(
                members[name],
                pool.directories[name],
                num_ids=report.num_ids,
                exact=pool.config.exact,
            )
            for name in (pool.config.target.name, drafter)
        )

    def read(self, output: Output) -> Read:
        """By token: whether the target would have picked another one, its negative log-likelihood
        at the target (nats), and by how much the drafter finds it likelier."""
        tokens = output.result.token_ids
        of_target, of_drafter = (_read(e, output) for e in (self._target, self._drafter))
        logprobs = np.array([[w.token for w in p.weights] for p in (of_target, of_drafter)])
        likely, drafted = np.exp(logprobs)
        return {
            "differs": np.array(of_target.tokens) != np.array(tokens),
            "nll": -logprobs[0],
            "overshoot": np.maximum(0.0, drafted - likely),
        }


def read_all(passes: Sequence[Pass], readers: Readers) -> list[Pass]:
    """The passes with what the models say of their outputs."""
    return [
        replace(each, read={name: readers.read(one) for name, one in each.outputs.items()})
        for each in tqdm(passes, desc="reading", leave=False)
    ]


def _read(engine: Engine, output: Output) -> Picks:
    prompt, tokens = output.prompt, output.result.token_ids
    slot = engine.open(output.sampling, len(prompt), len(prompt) + len(tokens))
    fed: TokenArray = array(TOKEN_TYPECODE, prompt) + tokens[:-1]
    (picks,) = engine.extend([Extension(slot, 0, fed, len(tokens), weighed=tokens)])
    engine.close(slot)
    return picks


def summarise(passes: Sequence[Pass], arm: Arm) -> dict[str, Any]:
    """Speed and loss of an arm over some passes."""
    outputs = [each.outputs[arm.name] for each in passes]
    read = [each.read[arm.name] for each in passes]
    joined = {name: np.concatenate([one[name] for one in read]) for name in read[0]}
    num_tokens = len(joined["nll"])
    summary = {
        "times_alone": _times(passes, arm.name, "alone"),
        "times_lossless": _times(passes, arm.name, "lossless"),
        "num_tokens": num_tokens,
        "target_rounds_per_token": sum(o.result.metrics.num_rounds for o in outputs) / num_tokens,
        "rejection_rate": _rejection_rate(outputs, arm),
        "share_differing": float(joined["differs"].mean()),
        "mean_nll": float(joined["nll"].mean()),
        "overshoot_p99": float(np.percentile(joined["overshoot"], 99)),
    }
    tiers = [output.result.tiers for output in outputs if output.result.tiers]
    if tiers:
        summary |= {
            f"share_{name}": sum(getattr(one, name) for one in tiers) / num_tokens
            for name in ("accepted", "slim", "escalated")
        }
        num_checked = sum(one.num_checked for one in tiers)
        summary["share_checked"] = num_checked / num_tokens
        summary["share_disagreeing"] = sum(one.num_disagreements for one in tiers) / num_checked
    return summary


def _times(passes: Sequence[Pass], arm: str, base: str) -> dict[str, float]:
    """Tokens per second over those of ``base``, prompt by prompt."""
    speeds = [
        [each.outputs[name].result.tokens_per_second or 0.0 for name in (arm, base)]
        for each in passes
    ]
    return asdict(median_interval([speed / of_base for speed, of_base in speeds]))


def _rejection_rate(outputs: Sequence[Output], arm: Arm) -> float | None:
    """Share of the drafted tokens that do not stand as drafted. None: nothing is drafted."""
    num_verifiers = 1 if arm.lossy is None else 2
    if len(arm.chain) <= num_verifiers:
        return None
    drafter, verifiers = arm.chain[-1 - num_verifiers], arm.chain[-num_verifiers:]
    levels = [
        level
        for output in outputs
        for level in output.result.metrics.levels
        if level.draft == drafter and level.verifier in verifiers
    ]
    # A token of tier C stands as drafted where the target has picked it.
    tiers = [output.result.tiers for output in outputs if output.result.tiers]
    num_standing = sum(lv.accepted for lv in levels) + sum(one.num_confirmed for one in tiers)
    return 1 - num_standing / sum(lv.proposed for lv in levels)


def draw(summaries: Mapping[str, Mapping[str, Any]], file: Path) -> None:
    """Speed against loss."""
    figure = Figure(figsize=(10, 4.5), layout="constrained")
    own_nll = summaries["alone"]["mean_nll"]
    losses = {
        "tokens that the target would not have picked": ("share_differing", 0.0),
        "mean NLL at the target, above its own text's (nats)": ("mean_nll", own_nll),
    }
    for axes, (label, (key, base)) in zip(figure.subplots(1, 2), losses.items(), strict=True):
        tiers = [s for name, s in summaries.items() if not name.startswith(("alone", "lossless,"))]
        curve = [(s[key] - base, s["times_alone"]["median"]) for s in tiers]
        axes.plot(*np.array(curve).T, color="lightgrey")
        for name, summary in summaries.items():
            times = summary["times_alone"]
            around = [[times["median"] - times["low"]], [times["high"] - times["median"]]]
            axes.errorbar([summary[key] - base], [times["median"]], around, fmt="o", label=name)
        axes.set(xlabel=label, ylabel="speed, x the target alone")
        axes.legend(fontsize="small", title="accept,escalate")
    figure.savefig(file, dpi=120)


def parse_arguments() -> argparse.Namespace:
    """What is measured."""
    parser = comparison_arguments(__doc__ or "")
    parser.add_argument("--per-task", type=int, default=8)
    parser.add_argument("--max-tokens", type=int, default=96)
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--drafters", default="small", help="members above, by comma")
    parser.add_argument("--mask", default=_MASK, help="where the pool has no slim member")
    parser.add_argument("--tiers", nargs="+", default=_TIERS, help="accept,escalate[,share]")
    parser.add_argument("--draft-tokens", type=int, default=5, help="length of the tiers' blocks")
    parser.add_argument("--plot", type=Path, help="a file to draw into")
    add_json_argument(parser)
    return parser.parse_args()


def main() -> None:
    """Measures, draws, prints."""
    arguments = parse_arguments()
    pool, report = open_pool(arguments.pool, dtype=None)
    pool = without_prefix_cache(pool)
    if not slim_members(pool):
        pool = with_slim(pool, arguments.mask.split(","))
    prompts = read_prompts(arguments.data, arguments.split, arguments.per_task)
    tokenizer = Tokenizer.load(pool.directories[pool.config.target.name])
    drafters = arguments.drafters.split(",")
    arms = arms_of(pool, drafters, arguments.tiers, arguments.draft_tokens)
    sampling = SamplingParams(temperature=arguments.temperature, max_tokens=arguments.max_tokens)
    with open_backend(pool, report, BackendName(arguments.backend)) as backend:
        # Once without being looked at.
        list(run_passes(backend, tokenizer, prompts[:1], arms, sampling))
        passes = list(run_passes(backend, tokenizer, prompts, arms, sampling))
    passes = read_all(passes, Readers(pool, report, drafters[-1]))
    tasks = dict.fromkeys(each.task for each in passes)
    results = {
        task: {
            arm.name: summarise([p for p in passes if task in ("all", p.task)], arm) for arm in arms
        }
        for task in chain(("all",), tasks)
    }
    if arguments.plot is not None:
        draw(results["all"], arguments.plot)
    slim = slim_members(pool)[0]
    print_report("tiers", arguments, {"slim": slim.model_dump(), "results": results})


if __name__ == "__main__":
    main()
