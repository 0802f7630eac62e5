"""What lossy outputs gain and lose: read by the models, against outputs of the target."""

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from tqdm import tqdm

from benchmarks.statistics import median_interval
from specrouter_dist.config import LossyParams, SamplingParams
from specrouter_dist.engine.factory import load_engine
from specrouter_dist.engine.interface import Engine, Extension, Picks
from specrouter_dist.pools.checks import PoolReport
from specrouter_dist.pools.loading import Pool, model_members
from specrouter_dist.serving.results import GenerateResult
from specrouter_dist.speculation.messages import TOKEN_TYPECODE, TokenArray

MOST_DIFFERING, MOST_NLL, LEAST_REDUCTION, LEAST_TASKS = 0.05, 0.05, 0.1, 2
"""What is wanted of one setting: at most so many of the tokens differ and the mean NLL is up by at
most so much, and the rejection rate is lower by this on so many tasks."""

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


ALONE, LOSSLESS, BLOCKS = "alone", "lossless", "lossless, blocks"
"""Names of the arms that all others are compared with."""


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


def compare(passes: Sequence[Pass], arms: Sequence[Arm]) -> dict[str, dict[str, Any]]:
    """Speed and loss of every arm over some passes, and against the arms without loss."""
    found = {arm.name: summarise(passes, arm) for arm in arms}
    for arm in arms:
        if arm.lossy is not None:
            own = found[arm.name]
            rates = found[BLOCKS]["rejection_rate"], own["rejection_rate"]
            reduction = None if None in rates else rates[0] - rates[1]
            increase = own["mean_nll"] - found[ALONE]["mean_nll"]
            own |= {"rejection_reduction": reduction, "nll_increase": increase}
    return found


def nearness(
    whole: Mapping[str, Mapping[str, Any]],
    by_task: Mapping[str, Mapping[str, Mapping[str, Any]]],
    arms: Sequence[Arm],
) -> dict[str, dict[str, Any]]:
    """Of each lossy arm, how near it comes to what is wanted.

    Args:
        whole: summaries over all prompts, by arm.
        by_task: the same of each task.
    """
    found = {}
    for name in (arm.name for arm in arms if arm.lossy is not None):
        reductions = {task: of[name]["rejection_reduction"] for task, of in by_task.items()}
        num_tasks = sum((known or 0.0) >= LEAST_REDUCTION for known in reductions.values())
        differing, increase = whole[name]["share_differing"], whole[name]["nll_increase"]
        is_near = differing <= MOST_DIFFERING and increase <= MOST_NLL
        found[name] = {
            "share_differing": differing,
            "nll_increase": increase,
            "rejection_reduction": reductions,
            "num_tasks_lower": num_tasks,
            "is_reached": is_near and num_tasks >= LEAST_TASKS,
        }
    return found


def summarise(passes: Sequence[Pass], arm: Arm) -> dict[str, Any]:
    """Speed and loss of an arm over some passes."""
    outputs = [each.outputs[arm.name] for each in passes]
    read = [each.read[arm.name] for each in passes]
    joined = {name: np.concatenate([one[name] for one in read]) for name in read[0]}
    num_tokens = len(joined["nll"])
    summary = {
        "times_alone": _times(passes, arm.name, ALONE),
        "times_lossless": _times(passes, arm.name, LOSSLESS),
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
        num_disagreements = sum(one.num_disagreements for one in tiers)
        summary["share_disagreeing"] = num_disagreements / num_checked if num_checked else None
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
    num_proposed = sum(lv.proposed for lv in levels)
    return 1 - num_standing / num_proposed if num_proposed else None
