"""Random search with a Bayesian step: which mask of a budget is worth most.

The first masks are drawn at random. Each further one is, of random ones and of the best ones with
one part swapped, the one that a model of those tried expects most of (Xia et al., SWIFT, arXiv
2410.06916, which VIA-SD's search is). With the same seed and scores the same masks are tried in the
same order, so a search that was interrupted goes on where scores are remembered.
"""

import math
from collections.abc import Callable

import numpy as np

from specrouter_dist.slim.masks import Mask, MaskSpace
from specrouter_dist.slim.surrogate import Surrogate

_LEAST_RANDOM = 8
_RANDOM_SHARE = 0.25
_EXPLORED = 256
"""Random masks that are weighed for each step."""
_BEST = 3
"""Masks whose neighbours are weighed."""


def search(
    space: MaskSpace,
    num_parts: int,
    evaluate: Callable[[Mask], float],
    *,
    max_evaluations: int,
    seed: int,
) -> list[Mask]:
    """The masks of ``num_parts`` that were tried, best first.

    Args:
        space: of the target.
        num_parts: that are left out.
        evaluate: what a mask comes to; less is better.
        max_evaluations: masks to try; fewer where there are no more.
        seed: of all that is drawn.
    """
    generator = np.random.default_rng((seed, num_parts))
    num_random = max(_LEAST_RANDOM, round(_RANDOM_SHARE * max_evaluations))
    num_masks = math.comb(len(space.parts), num_parts)
    values: dict[Mask, float] = {}
    while len(values) < min(max_evaluations, num_masks):
        if len(values) < num_random:
            mask = space.random(num_parts, generator)
        else:
            mask = _most_promising(space, num_parts, values, generator)
        if mask not in values:
            values[mask] = evaluate(mask)
    return sorted(values, key=values.__getitem__)


def _most_promising(
    space: MaskSpace, num_parts: int, values: dict[Mask, float], generator: np.random.Generator
) -> Mask:
    best = sorted(values, key=values.__getitem__)[:_BEST]
    near = [swapped for mask in best for swapped in space.swaps(mask)]
    far = [space.random(num_parts, generator) for _ in range(_EXPLORED)]
    choices = [mask for mask in dict.fromkeys((*near, *far)) if mask not in values]
    if not choices:
        return space.random(num_parts, generator)
    tried = np.array([space.vector(mask) for mask in values])
    surrogate = Surrogate(tried, [math.log(value) for value in values.values()])
    vectors = np.array([space.vector(mask) for mask in choices])
    return choices[int(np.argmax(surrogate.improvement(vectors)))]
