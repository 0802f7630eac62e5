"""What may be read off rows of logits beside the picks."""

import torch
from torch import Tensor

from specrouter_dist.engine.interface import TokenLogprobs
from specrouter_dist.routing.similarity import SPARSE_ROW_IDS, SparseRow
from specrouter_dist.speculation.messages import TokenArray


def read_logprobs(logits: Tensor, tokens: TokenArray, num_top: int) -> tuple[TokenLogprobs, ...]:
    """Log-probabilities of ``tokens`` and of the ``num_top`` likeliest ids in every row.

    Args:
        logits: float32 or bfloat16 ``[len(tokens), vocab_size]``.
        tokens: the pick of each row.
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


def read_sparse_rows(shaped: Tensor) -> tuple[SparseRow, ...]:
    """The laws whose logits are ``shaped``, float32 ``[num_rows, vocab_size]``.

    Which of several equally likely ids is the last to be listed is not defined, nor are the last
    bits of the probabilities: nothing is drawn from them.
    """
    laws = torch.softmax(shaped.double(), dim=1)
    best = laws.topk(min(SPARSE_ROW_IDS, laws.shape[1]), dim=1)
    # Not one minus the rest: a tail of impossible ids must be exactly 0.
    tails = laws.scatter_(1, best.indices, 0.0).sum(dim=1)
    rows = zip(best.indices.tolist(), best.values.tolist(), tails.tolist(), strict=True)
    return tuple(
        SparseRow(tuple(pair for pair in zip(ids, values, strict=True) if pair[1] > 0.0), tail)
        for ids, values, tail in rows
    )
