"""Distances between drafter and target."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from specrouter_dist.align.losses import buckets, forward_kl, total_variation


def top_of(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    values, ids = logits.log_softmax(dim=-1).topk(k)
    return ids, values


@pytest.mark.parametrize("k", [4, 32])
def test_equal_logits_are_at_distance_zero(k: int) -> None:
    logits = torch.randn(7, 32)
    pair = buckets(logits, *top_of(logits, k))
    assert float(total_variation(pair)) == pytest.approx(0, abs=1e-6)
    assert float(forward_kl(pair)) == pytest.approx(0, abs=1e-6)


def test_equal_logits_are_at_distance_zero_when_sharpened() -> None:
    logits = torch.randn(7, 32)
    pair = buckets(logits, *top_of(logits, 32), temperature=0.3)
    assert float(total_variation(pair)) == pytest.approx(0, abs=1e-5)


def test_with_every_token_kept_the_distances_are_the_true_ones() -> None:
    target, drafter = torch.randn(7, 32), torch.randn(7, 32)
    p, q = target.softmax(-1), drafter.softmax(-1)
    pair = buckets(drafter, *top_of(target, 32))
    assert float(total_variation(pair)) == pytest.approx(
        float(0.5 * (p - q).abs().sum(-1).mean()), abs=1e-5
    )
    assert float(forward_kl(pair)) == pytest.approx(
        float((p * (p / q).log()).sum(-1).mean()), abs=1e-3
    )


def test_disjoint_distributions_are_at_total_variation_one() -> None:
    target, drafter = torch.full((1, 8), -50.0), torch.full((1, 8), -50.0)
    target[0, 0], drafter[0, 1] = 50.0, 50.0
    assert float(total_variation(buckets(drafter, *top_of(target, 4)))) == pytest.approx(1.0)


def test_buckets_never_overstate_total_variation() -> None:
    target, drafter = torch.randn(50, 32), torch.randn(50, 32)
    full = total_variation(buckets(drafter, *top_of(target, 32)))
    assert total_variation(buckets(drafter, *top_of(target, 5))) <= full + 1e-6
