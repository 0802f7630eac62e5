"""What the fast engine wants of a decoder: rows of tokens in, logits out, over its KV cache."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol, Self

import torch
from torch import Tensor

from specrouter_dist.engine.kv_cache import KvCache, PageTable
from specrouter_dist.engine.llama_shape import LlamaShape
from specrouter_dist.engine.lora import AdaptedRows
from specrouter_dist.speculation.messages import TokenArray


@dataclass(frozen=True, slots=True)
class Part:
    """One session's rows of a forward: ``tokens`` at consecutive positions from ``start`` on."""

    table: PageTable
    start: int
    tokens: TokenArray


class Decoder(Protocol):
    """The weights of one model, its KV cache, and the forward over both."""

    shape: LlamaShape
    cache: KvCache
    layer_dtype: torch.dtype
    """Of the layers' weights."""

    @property
    def weight_bytes(self) -> int:
        """As held in memory."""
        ...

    def forward(self, parts: Sequence[Part], adapted: AdaptedRows | None) -> Tensor:
        """Runs all layers over the parts' rows and stores their keys and values.

        Args:
            parts: what is fed; its positions are reserved and writable.
            adapted: rows that adapters add to.

        Returns:
            The residual stream after the last layer, ``[>= rows, hidden_size]`` in the order of the
            parts, until the next forward.
        """
        ...

    def logits(self, hidden: Tensor, rows: Sequence[int]) -> Tensor:
        """Float32 ``[len(rows), num_ids]`` of some rows of a forward's result, at least one, until
        the next call."""
        ...

    def without(self, mask: Collection[str]) -> Self:
        """The same weights and cache, not computing some parts.

        Args:
            mask: ``<layer>.attention`` and ``<layer>.mlp``, layers counted from 0.
        """
        ...
