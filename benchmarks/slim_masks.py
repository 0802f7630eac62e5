"""Chosen masks against random ones of the same budget, and against the pool's other drafters."""

import statistics
from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
from tqdm import tqdm

from specrouter_dist.config import SamplingParams
from specrouter_dist.slim.finding import Findings, SlimSearch
from specrouter_dist.slim.masks import Mask, MaskSpace
from specrouter_dist.slim.members import Along, Members
from specrouter_dist.slim.scoring import SLIM, Score
from specrouter_dist.slim.times import expected_profile
from specrouter_dist.speculation.messages import TokenArray

_RANDOM_SEED = 20260629
"""Another than the search's: what it has drawn first is not drawn again."""


def compare_masks(
    search: SlimSearch,
    findings: Findings,
    prompts_by_split: dict[str, Sequence[TokenArray]],
    num_random: int,
) -> dict[str, object]:
    """By split of the data the scores of each budget's chosen mask and of random ones, with the
    times that the parts say, and the other drafters' agreement."""
    members = Members(
        search.pool,
        search.report,
        max_texts=max(map(len, prompts_by_split.values())),
        one_device=search.one_device,
        hop_us=search.hop_us,
    )
    space = MaskSpace(search.report.member(findings.target).shape.num_layers)
    settings = search.settings
    sampling = SamplingParams(
        temperature=settings.temperature, max_tokens=settings.max_tokens, seed=settings.seed
    )
    found = {}
    for split, prompts in prompts_by_split.items():
        with members.along(prompts, sampling, findings.times.profile) as along:
            found[split] = {
                "num_positions": sum(len(text.output) for text in along.texts),
                "drafters": along.agreement,
                "without_us": along.scorer.without().predicted_us,
                "budgets": _budgets(space, findings, along, num_random),
            }
    costs = {other.name: other.cost for other in findings.others}
    return {"by_split": found, "cost_of_drafters": costs}


def _budgets(
    space: MaskSpace, findings: Findings, along: Along, num_random: int
) -> list[dict[str, object]]:
    parts = findings.times.of_parts
    rows: list[dict[str, object]] = []
    generator = np.random.default_rng(_RANDOM_SEED)
    for one in findings.found:

        def score(mask: Mask) -> Score:
            return along.score(mask, expected_profile(SLIM, parts, mask))

        masks = [space.random(len(one.mask), generator) for _ in range(num_random)]
        scores = [score(m) for m in tqdm(masks, desc=f"random {one.skip:g}", leave=False)]
        rows.append(
            {
                "skip": one.skip,
                "mask": one.mask,
                "chosen": asdict(score(frozenset(one.mask))),
                "random_agreement": {
                    "mean": statistics.fmean(each.agreement for each in scores),
                    "best": max(each.agreement for each in scores),
                },
                "random_predicted_us": {
                    "mean": statistics.fmean(each.predicted_us for each in scores),
                    "best": min(each.predicted_us for each in scores),
                },
                "num_random": num_random,
            }
        )
    return rows
