"""What may be read off rows of logits beside the picks."""

import math
from array import array
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from specrouter_dist.engine.interface import TokenLogprobs
from specrouter_dist.routing.similarity import SPARSE_ROW_IDS, SparseRows
from specrouter_dist.speculation.messages import TOKEN_TYPECODE, TokenArray
from specrouter_dist.speculation.tiers import Weight

_ROWS_AT_ONCE = 32


def read_logprobs(logits: Tensor, tokens: Sequence[int], num_top: int) -> tuple[TokenLogprobs, ...]:
    """Log-probabilities of ``tokens`` and of the ``num_top`` likeliest ids in every row.

    Args:
        logits: float32 or bfloat16 ``[len(tokens), vocab_size]``.
        tokens: one of each row.
        num_top: ids beside it.
    """
    laws = torch.log_softmax(logits.float(), dim=1)
    best = laws.topk(min(num_top, laws.shape[1]), dim=1)
    index = torch.tensor(tokens, dtype=torch.int64, device=laws.device).unsqueeze(1)
    rows = zip(
        tokens,
        laws.gather(1, index).squeeze(1).tolist(),
        best.indices.tolist(),
        best.values.tolist(),
        strict=True,
    )
    return tuple(
        TokenLogprobs(token, logprob, tuple(zip(ids, values, strict=True)))
        for token, logprob, ids, values in rows
    )


def read_followers(
    logits_of: Callable[[int, int], Tensor], followers: Sequence[int], num_top: int
) -> tuple[TokenLogprobs, ...]:
    """As :func:`read_logprobs`, a few rows at a time: prompts are long, and so is a row.

    Args:
        logits_of: the logits of rows ``[first, stop)``; ``followers[i]`` is looked up in row ``i``.
        followers: any number of ids.
        num_top: ids beside each.
    """
    found: list[TokenLogprobs] = []
    for first in range(0, len(followers), _ROWS_AT_ONCE):
        few = followers[first : first + _ROWS_AT_ONCE]
        found += read_logprobs(logits_of(first, first + len(few)), few, num_top)
    return tuple(found)


def read_weights(laws: Tensor, weighed: Sequence[int], tokens: Sequence[int]) -> tuple[Weight, ...]:
    """How likely ``weighed`` are beside ``tokens``, the picks, and the likeliest ids.

    Args:
        laws: natural log-probabilities, float32 ``[len(tokens), vocab_size]``.
        weighed: one of each of the first rows.
        tokens: one of each row.
    """
    rows = laws[: len(weighed)]
    pairs = torch.tensor((weighed, tokens[: len(weighed)]), device=rows.device)
    found = rows.gather(1, pairs.T).tolist()
    best = rows.amax(dim=1).tolist()
    return tuple(Weight(token, pick, top) for (token, pick), top in zip(found, best, strict=True))


def read_runner_ups(
    scores: Tensor, tokens: TokenArray, num_wanted: int, best_of: Callable[[Tensor], list[int]]
) -> tuple[tuple[TokenArray, ...], tuple[float, ...]]:
    """The next-best ids of every row, none whose score is minus infinity, and by how much the best
    of them is below the pick.

    Args:
        scores: ``[len(tokens), vocab_size]``, what ``tokens``, the picks, are the argmax of.
        tokens: one of each row, at least one.
        num_wanted: most ids of each row, at least one.
        best_of: the argmax of every row.
    """
    left = scores.to(torch.float32, copy=True)
    # The same memory: indexing an array is much faster than indexing a tensor.
    cells = left.numpy() if left.device.type == "cpu" else left
    rows, best = list(range(len(tokens))), tokens.tolist()
    of_picks = cells[rows, best].tolist()
    gaps: list[float] = []
    found = [array(TOKEN_TYPECODE) for _ in tokens]
    # A few times the argmax: a tenth of what a stable sort costs.
    for _ in range(num_wanted):
        cells[rows, best] = -math.inf
        best = best_of(left)
        values = cells[rows, best].tolist()
        gaps = gaps or [pick - value for pick, value in zip(of_picks, values, strict=True)]
        for ids, token, value in zip(found, best, values, strict=True):
            if value > -math.inf:
                ids.append(token)
    return tuple(found), tuple(gaps)


def read_sparse_rows(logits: Tensor) -> SparseRows:
    """The laws before temperature whose logits are ``logits``, ``[num_rows, vocab_size]``.

    Which of several equally likely ids is the last to be listed is not defined, nor are the last
    bits of the probabilities: nothing is drawn from them.
    """
    laws = torch.log_softmax(logits.float(), dim=1)
    vocab_size = laws.shape[1]
    best = laws.topk(min(SPARSE_ROW_IDS, vocab_size), dim=1)
    # Not one minus the rest, which would leave a rounding error of small tails.
    tails = laws.scatter_(1, best.indices, -math.inf).exp_().sum(dim=1)
    return SparseRows(
        best.indices.cpu().numpy().astype(np.uint32),
        best.values.cpu().numpy(),
        tails.cpu().numpy().astype(np.float64),
        vocab_size,
    )
