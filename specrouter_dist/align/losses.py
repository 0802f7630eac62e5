"""What a drafter is trained to minimise: its distance from the target's distribution.

Forward Kullback-Leibler divergence converges fast from a bad start. Total variation is what counts
when serving: with shared noise two models pick the same token with probability at least (1 - TV) /
(1 + TV) (arXiv 2408.07978). Both take the target as its most probable tokens plus one bucket for
the rest.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_TINY = 1e-6  # keeps logarithms of empty buckets finite


@dataclass(frozen=True)
class Buckets:
    """Two distributions over the target's top-k tokens and, last, the rest; (positions, k + 1)."""

    target: Tensor
    drafter: Tensor


def buckets(
    logits: Tensor, top_ids: Tensor, top_log_probs: Tensor, temperature: float = 1.0
) -> Buckets:
    """Set drafter ``logits`` (positions, vocabulary) against the target's top tokens.

    At temperature 1 the target's remaining mass is known exactly. Below 1 it is taken as zero and
    the rest renormalised: what lies under the top 64 of 4,096 hardly counts once sharpened.
    """
    drafter = (logits / temperature).log_softmax(dim=-1).gather(-1, top_ids).exp()
    if temperature < 1.0:
        target = (top_log_probs / temperature).softmax(dim=-1)
    else:
        target = top_log_probs.exp()
    return Buckets(_with_rest(target), _with_rest(drafter))


def _with_rest(probabilities: Tensor) -> Tensor:
    rest = (1.0 - probabilities.sum(dim=-1, keepdim=True)).clamp_min(0.0)
    return torch.cat((probabilities, rest), dim=-1)


def forward_kl(pair: Buckets) -> Tensor:
    """Mean KL(target || drafter), nats per position."""
    log_ratio = (pair.target + _TINY).log() - (pair.drafter + _TINY).log()
    return (pair.target * log_ratio).sum(dim=-1).mean()


def total_variation(pair: Buckets) -> Tensor:
    """Mean total variation distance per position, in [0, 1]."""
    return 0.5 * (pair.target - pair.drafter).abs().sum(dim=-1).mean()
