"""What the fast engine wants of a decoder: rows of tokens in, logits out, over its KV cache."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol, Self

import torch
from torch import Tensor

from specrouter_dist.engine.kv_cache import KvCache, PageTable
from specrouter_dist.engine.llama_shape import LlamaShape
from specrouter_dist.engine.lora import Adapter
from specrouter_dist.speculation.messages import TokenArray


@dataclass(frozen=True, slots=True)
class Part:
    """One session's rows of a forward: ``tokens`` at consecutive positions from ``start`` on, all
    through ``adapter``."""

    table: PageTable
    start: int
    tokens: TokenArray
    adapter: Adapter | None = None


@dataclass(frozen=True, slots=True)
class Dice:
    """How a session's next tokens are drawn: the best of ``scale * logits + noise``.

    Attributes:
        scale: the inverse temperature; 1 at temperature 0.
        noise: where in memory the row of each token lies; none at temperature 0.
    """

    scale: float
    noise: Sequence[int]


@dataclass(frozen=True, slots=True)
class DraftRun:
    """``num_tokens`` of a session, one after the other behind those of its part."""

    part: Part
    num_tokens: int
    dice: Dice


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

    def forward(self, parts: Sequence[Part]) -> Tensor:
        """Runs all layers over the parts' rows and stores their keys and values.

        Args:
            parts: what is fed; its positions are reserved and writable.

        Returns:
            The residual stream after the last layer, ``[>= rows, hidden_size]`` in the order of the
            parts, until the next forward.
        """
        ...

    def logits(self, hidden: Tensor, rows: Sequence[int]) -> Tensor:
        """Float32 ``[len(rows), num_ids]`` of some rows of a forward's result, at least one, until
        the next call."""
        ...

    def draft(self, runs: Sequence[DraftRun]) -> list[TokenArray] | None:
        """Feeds every run's rows and draws its tokens, without a look at them in between; None:
        this decoder goes a token at a time.

        Args:
            runs: longest first; positions for all tokens are reserved.
        """
        ...

    def without(self, mask: Collection[str]) -> Self:
        """The same weights and cache, not computing some parts.

        Args:
            mask: ``<layer>.attention`` and ``<layer>.mlp``, layers counted from 0.
        """
        ...
