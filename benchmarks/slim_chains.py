"""Chains with and without a slim level: predicted and measured time per token, interleaved."""

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from tqdm import tqdm

from benchmarks.regret import describe
from benchmarks.statistics import median_interval
from specrouter_dist.config import Plan, SamplingParams
from specrouter_dist.routing.traffic import Traffic
from specrouter_dist.serving.backend import PoolBackend
from specrouter_dist.serving.results import GenerateRequest, GenerateResult
from specrouter_dist.speculation.messages import TokenArray

_ASKED_WITHIN_S = 1.5
"""The router asks its workers once a second."""

Chain = tuple[str, ...]
_Note = dict[str, Any]


def chains_of(lookups: Chain, drafters: Chain, slim: str, target: str) -> list[Chain]:
    """Without the slim level and with it, the target alone first."""
    firsts = dict.fromkeys([*((drafter,) for drafter in drafters), drafters])
    without = [lookups[:1], (*lookups[:1], *drafters[-1:])]
    with_slim = [(slim,), *((*first, slim) for first in firsts)]
    if lookups:
        with_slim.append((lookups[0], slim))
    chains = [(), *firsts, *without, *with_slim]
    return [(*chain, target) for chain in dict.fromkeys(chains)]


@dataclass(slots=True)
class _Arm:
    plan: Plan
    token_us: list[float] = field(default_factory=list)
    """Per pass, behind the first token of each text."""
    results: list[GenerateResult] = field(default_factory=list)
    """Of the last pass."""
    num_differing: int = 0


def compare_chains(
    backend: PoolBackend,
    chains: Sequence[Chain],
    prompts: Sequence[TokenArray],
    sampling: SamplingParams,
    passes: int,
) -> list[dict[str, object]]:
    """One row per chain, each with the best knobs that the calibrated router knows for it; all
    prompts through every chain in every pass, in rotating order, one request at a time."""
    traffic = Traffic.of(sampling)
    arms = [_Arm(backend.running.plan_of(chain, traffic)) for chain in chains]
    wanted: list[TokenArray] = []
    for turn in tqdm(range(-1, passes), desc="passes", leave=False):
        for k in range(len(arms)):
            arm = arms[(turn + k) % len(arms)] if turn >= 0 else arms[k]
            arm.results = _run(backend, arm.plan, prompts, sampling)
            texts = [result.token_ids for result in arm.results]
            # The target alone comes first in the pass that is not counted.
            wanted = wanted or texts
            arm.num_differing += sum(a != b for a, b in zip(wanted, texts, strict=True))
            if turn >= 0:
                arm.token_us.append(_token_us(arm.results))
    time.sleep(_ASKED_WITHIN_S)
    outcomes = backend.running.explain()["outcomes"]
    return [_row(arm, arms[0], outcomes) for arm in arms]


def _run(
    backend: PoolBackend, plan: Plan, prompts: Sequence[TokenArray], sampling: SamplingParams
) -> list[GenerateResult]:
    requests = [
        GenerateRequest(ids, sampling.model_copy(update={"seed": seed}), None, plan)
        for seed, ids in enumerate(prompts)
    ]
    return list(backend.generate(requests, concurrency=1))


def _token_us(results: Sequence[GenerateResult]) -> float:
    num_tokens = sum(len(result.token_ids) - 1 for result in results)
    return 1e3 * sum(result.metrics.generation_time_ms for result in results) / num_tokens


def _row(arm: _Arm, alone: _Arm, outcomes: Mapping[str, Sequence[_Note]]) -> dict[str, object]:
    of_chain = _noted(outcomes["us_per_token"], arm.plan.chain)
    of_pair = _noted(outcomes["tokens_per_round"], arm.plan.chain[-2:])
    num_rounds = sum(result.metrics.num_rounds for result in arm.results)
    ratios = [a / b for a, b in zip(alone.token_us, arm.token_us, strict=True)]
    levels = [level for result in arm.results for level in result.metrics.levels]
    return {
        "arm": describe(arm.plan),
        "measured_us": statistics.median(arm.token_us),
        "predicted_us": of_chain and of_chain["predicted"],
        "tokens_per_round": sum(len(result.token_ids) for result in arm.results) / num_rounds,
        "tokens_per_round_of_last_pair": of_pair,
        "times_alone": asdict(median_interval(ratios)),
        "accepted": {
            f"{draft} -> {verifier}": sum(x.accepted for x in of)
            / max(1, sum(x.proposed for x in of))
            for draft, verifier in dict.fromkeys((x.draft, x.verifier) for x in levels)
            if (of := [x for x in levels if (x.draft, x.verifier) == (draft, verifier)])
        },
        "num_differing": arm.num_differing,
    }


def _noted(notes: Sequence[_Note], members: Chain) -> dict[str, float] | None:
    """What the router has predicted of a chain or pair, and measured since, in all chains; None: it
    has noted nothing."""
    own = [note for note in notes if note["of"] == " -> ".join(members)]
    weight = sum(note["weight"] for note in own)
    if not weight:
        return None
    return {
        key: sum(note[key] * note["weight"] for note in own) / weight
        for key in ("predicted", "measured")
    }
