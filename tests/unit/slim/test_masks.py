"""Budgets of skipped layers, and masks of them."""

import numpy as np
import pytest

from specrouter_dist.config import LayerSkipMember
from specrouter_dist.errors import RequestError
from specrouter_dist.slim.masks import MaskSpace, count_of

TEN = MaskSpace(10)


@pytest.mark.parametrize(("skip", "count"), [(0.05, 1), (0.25, 5), (0.45, 9), (0.6, 12), (0.8, 16)])
def test_a_budget_is_a_number_of_parts(skip: float, count: int) -> None:
    assert TEN.num_parts(skip) == count


@pytest.mark.parametrize(
    ("num_layers", "skip", "expected"),
    [
        (10, 0.9, "skip: 0.9 of 10 layers are 18 of their 20 parts; .* accepted: 0.05 to 0.8$"),
        (10, 0.01, "skip: 0.01 of 10 layers are 0 of their 20 parts"),
        (2, 0.5, "accepted: no value$"),
    ],
)
def test_a_budget_that_cannot_be_is_refused(num_layers: int, skip: float, expected: str) -> None:
    with pytest.raises(RequestError, match=expected) as refused:
        MaskSpace(num_layers).num_parts(skip)
    assert refused.value.field == "skip"


def test_masks_are_what_a_pool_file_accepts() -> None:
    generator = np.random.default_rng(0)
    for skip in (0.05, 0.45, 0.8):
        mask = TEN.random(TEN.num_parts(skip), generator)
        member = LayerSkipMember(
            kind="layer_skip", name="slim", of="target", mask=TEN.in_order(mask)
        )
        member.check_layers(10)
        assert frozenset(member.mask) == mask


def test_swaps_are_all_masks_that_differ_by_one_part_each() -> None:
    mask = frozenset({"1.mlp", "4.attention"})
    swaps = list(TEN.swaps(mask))
    assert len(swaps) == len(set(swaps)) == 2 * 14
    assert all(len(swap) == 2 and len(swap & mask) == 1 for swap in swaps)


def test_parts_are_counted_by_kind() -> None:
    mask = frozenset({"1.mlp", "4.attention", "5.attention"})
    assert (count_of(mask, "attention"), count_of(mask, "mlp")) == (2, 1)
    assert TEN.vector(mask).sum() == 3
