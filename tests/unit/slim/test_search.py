"""Which masks a search tries, and that it finds better ones than drawing at random."""

import math
from itertools import combinations

import numpy as np
import pytest

from specrouter_dist.slim.masks import Mask, MaskSpace
from specrouter_dist.slim.search import search
from specrouter_dist.slim.surrogate import Surrogate

SPACE = MaskSpace(10)
NUM_PARTS = 7


class Made:
    """Values of masks in which every part has its own price, and some pairs one more."""

    def __init__(self, seed: int) -> None:
        generator = np.random.default_rng(seed)
        self._prices = dict(zip(SPACE.parts, generator.exponential(size=16), strict=True))
        self._pairs = dict.fromkeys(combinations(SPACE.parts, 2), 0.0)
        for pair in self._pairs:
            self._pairs[pair] = float(generator.normal(scale=0.1))
        self.tried: list[Mask] = []

    def value(self, mask: Mask) -> float:
        own = sum(self._prices[part] for part in mask)
        return math.exp(own + sum(v for pair, v in self._pairs.items() if mask.issuperset(pair)))

    def __call__(self, mask: Mask) -> float:
        self.tried.append(mask)
        return self.value(mask)


@pytest.mark.parametrize("seed", range(4))
def test_it_comes_nearer_to_the_best_mask_than_as_many_random_ones(seed: int) -> None:
    made = Made(seed)
    found = search(SPACE, NUM_PARTS, made, max_evaluations=48, seed=seed)
    everything = sorted(map(made.value, map(frozenset, combinations(SPACE.parts, NUM_PARTS))))
    generator = np.random.default_rng(seed)
    drawn = min(made.value(SPACE.random(NUM_PARTS, generator)) for _ in range(48))
    place = sum(value < made.value(found[0]) for value in everything)
    assert made.value(found[0]) < drawn
    assert place < 0.001 * len(everything)


def test_it_tries_each_mask_once_and_as_many_as_it_may() -> None:
    made = Made(0)
    found = search(SPACE, NUM_PARTS, made, max_evaluations=20, seed=3)
    assert len(made.tried) == len(set(made.tried)) == 20
    assert all(len(mask) == NUM_PARTS for mask in made.tried)
    assert found == sorted(made.tried, key=made.value)


def test_the_same_seed_tries_the_same_masks_in_the_same_order() -> None:
    first, second, other = Made(0), Made(0), Made(0)
    for made, seed in ((first, 3), (second, 3), (other, 4)):
        search(SPACE, NUM_PARTS, made, max_evaluations=16, seed=seed)
    assert first.tried == second.tried != other.tried


def test_of_few_masks_all_are_tried() -> None:
    space, tried = MaskSpace(4), []

    def evaluate(mask: Mask) -> float:
        tried.append(mask)
        return 1.0 + ("1.mlp" in mask)

    assert len(search(space, 2, evaluate, max_evaluations=50, seed=0)) == 6
    assert len(tried) == 6


def test_the_surrogate_expects_most_where_parts_that_cost_much_are_kept() -> None:
    vectors = np.array([[1, 1, 0, 0], [1, 0, 1, 0], [0, 1, 0, 1], [1, 0, 0, 1]], dtype=float)
    surrogate = Surrogate(vectors, [4.0, 3.0, 1.0, 2.5])
    worst, best = surrogate.improvement(np.array([[1.0, 1, 0, 0], [0, 0, 1, 1]]))
    assert best > worst >= 0.0
