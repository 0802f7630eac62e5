"""Tiered, lossy use of a slim verifier: speed against the target alone and against two levels that
lose nothing, and what it costs (docs/slim.md).

    python -m benchmarks.tiers --per-task 8 --plot tiers.svg --json
    python -m benchmarks.tiers --split dev eval --mask mine=4.attention,5.mlp --temperature 0.8

A pass is one prompt through all arms, in an order that rotates: the target alone, the drafters
above the target as the router has them, and in blocks of one length (``--draft-tokens``), so that
rejection rates compare, the drafters above the target and above each slim member, which commits
tokens, at several thresholds (``--tiers accept,escalate[,max_unverified_share]``). Such blocks are
drafted in lock-step, and no stage continues its own text. Afterwards the target and the drafter
read all outputs: which tokens the target would have picked after the same ones before, under the
same noise, and how likely both find those that stand there.

Of each split, per task and over all prompts, beside the figures of each arm:
``rejection_reduction``, by how much less of what is drafted does not stand as drafted than in the
two levels of the same blocks. ``aim`` says of each arm with tiers how near it comes to what is
wanted (:mod:`benchmarks.losses`).

``--pool`` may have slim members; without any it gets one for each ``--mask``.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from benchmarks.arms import pool_arguments
from benchmarks.losses import (
    ALONE,
    BLOCKS,
    LOSSLESS,
    Arm,
    Output,
    Pass,
    Readers,
    compare,
    nearness,
    read_all,
)
from benchmarks.losses_plot import draw
from benchmarks.pools import with_slims, without_prefix_cache
from benchmarks.prompts import Prompt, read_prompts
from benchmarks.report import add_json_argument, print_report
from specrouter_dist.cli.backends import open_backend
from specrouter_dist.cli.options import BackendName
from specrouter_dist.cli.session import open_pool
from specrouter_dist.config import LossyParams, Plan, SamplingParams
from specrouter_dist.pools.loading import Pool, slim_members
from specrouter_dist.routing.planner import Candidate, to_plan
from specrouter_dist.serving.backend import PoolBackend
from specrouter_dist.serving.results import GenerateRequest
from specrouter_dist.text.tokenizer import Tokenizer

_TIERS = ("0.95,0.9", "0.9,0.8", "0.85,0.7", "0.8,0.6", "0.7,0.4", "0.5,0.25", "0.3,0.1")
_MASKS = (
    "slim-1=3.mlp",
    "slim-3=1.mlp,3.mlp,4.mlp",
    "slim-6=2.mlp,3.attention,3.mlp,4.mlp,5.attention,5.mlp",
)
"""Of the embedded target, which has 20 parts: the best ones of one and of three parts that
``specrouter slim search`` has found, and one of six that were chosen one by one."""
_UNKNOWN_US = 1e4


def arms_of(
    pool: Pool, drafters: Sequence[str], tiers: Sequence[str], draft_tokens: int
) -> list[Arm]:
    """The target alone first, then two levels, then those and the tiers in blocks of one length."""
    target = pool.config.target.name
    lossless = (*drafters, target)
    arms = [
        Arm(ALONE, (target,)),
        Arm(LOSSLESS, lossless),
        Arm(BLOCKS, lossless, None, draft_tokens),
    ]
    for slim in slim_members(pool):
        for text in tiers:
            bounds = dict(zip(LossyParams.model_fields, map(float, text.split(",")), strict=False))
            lossy = LossyParams.model_validate(bounds)
            chain = (*drafters, slim.name, target)
            arms.append(Arm(f"{slim.name} {text}", chain, lossy, draft_tokens))
    return arms


def plan_of(backend: PoolBackend, arm: Arm, request: GenerateRequest) -> Plan:
    """The router's own, or blocks of the arm's length in lock-step."""
    if not arm.draft_tokens:
        return backend.running.plan_of(arm.chain, request.traffic)
    lengths = (arm.draft_tokens,) * (len(arm.chain) - 1)
    return to_plan(Candidate(arm.chain, lengths, _UNKNOWN_US), 0)


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
            request = replace(request, plan=plan_of(backend, arm, request))
            (result,) = backend.generate([request], concurrency=1)
            outputs[arm.name] = Output(ids, own, result)
        yield Pass(prompt.task, outputs, {})


def parse_masks(texts: Sequence[str]) -> dict[str, list[str]]:
    """Of ``name=part,part``."""
    pairs = (text.split("=", 1) for text in texts)
    return {name: parts.split(",") for name, parts in pairs}


def parse_arguments() -> argparse.Namespace:
    """What is measured."""
    parser = pool_arguments(__doc__ or "")
    parser.add_argument("--split", nargs="+", choices=["dev", "eval"], default=["dev"])
    parser.add_argument("--per-task", type=int, default=8)
    parser.add_argument("--max-tokens", type=int, default=96)
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--drafters", default="small", help="members above, by comma")
    parser.add_argument(
        "--mask",
        action="append",
        help="NAME=PART,PART...; may be repeated; for a pool without a slim member",
    )
    parser.add_argument("--tiers", nargs="+", default=_TIERS, help="accept,escalate[,share]")
    parser.add_argument("--draft-tokens", type=int, default=5, help="length of the tiers' blocks")
    parser.add_argument("--plot", type=Path, help="a file to draw the first split into")
    add_json_argument(parser)
    return parser.parse_args()


def measure(
    arguments: argparse.Namespace, pool: Pool, drafters: Sequence[str], arms: Sequence[Arm]
) -> dict[str, list[Pass]]:
    """All passes by split, read by the models."""
    _, report = open_pool(arguments.pool, dtype=None)
    prompts = {s: read_prompts(arguments.data, s, arguments.per_task) for s in arguments.split}
    tokenizer = Tokenizer.load(pool.directories[pool.config.target.name])
    sampling = SamplingParams(temperature=arguments.temperature, max_tokens=arguments.max_tokens)
    with open_backend(pool, report, BackendName(arguments.backend)) as backend:
        # Once without being looked at.
        list(run_passes(backend, tokenizer, next(iter(prompts.values()))[:1], arms, sampling))
        passes = {
            split: list(run_passes(backend, tokenizer, own, arms, sampling))
            for split, own in prompts.items()
        }
    readers = Readers(pool, report, drafters[-1])
    return {split: read_all(own, readers) for split, own in passes.items()}


def compare_all(passes: Sequence[Pass], arms: Sequence[Arm]) -> dict[str, dict[str, Any]]:
    """Of all prompts, and of each task's."""
    tasks = dict.fromkeys(each.task for each in passes)
    by_task = {task: [each for each in passes if each.task == task] for task in tasks}
    return {name: compare(own, arms) for name, own in {"all": passes, **by_task}.items()}


def main() -> None:
    """Measures, draws, prints."""
    arguments = parse_arguments()
    pool, _ = open_pool(arguments.pool, dtype=None)
    pool = without_prefix_cache(pool)
    if not slim_members(pool):
        pool = with_slims(pool, parse_masks(arguments.mask or _MASKS))
    drafters = arguments.drafters.split(",")
    arms = arms_of(pool, drafters, arguments.tiers, arguments.draft_tokens)
    found: dict[str, object] = {}
    for split, passes in measure(arguments, pool, drafters, arms).items():
        results = compare_all(passes, arms)
        by_task = {task: own for task, own in results.items() if task != "all"}
        if arguments.plot is not None and not found:
            draw(by_task, arms, arguments.plot)
        found[split] = {"results": results, "aim": nearness(results["all"], by_task, arms)}
    slims = [slim.model_dump() for slim in slim_members(pool)]
    print_report("tiers", arguments, {"slims": slims, "by_split": found})


if __name__ == "__main__":
    main()
