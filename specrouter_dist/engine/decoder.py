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
    """How a session's tokens are drawn: the best of logits over the temperature, and noise.

    Attributes:
        inverse_temperature: 1 at temperature 0.
        seed: of the noise; None at temperature 0.
    """

    inverse_temperature: float
    seed: int | None


@dataclass(frozen=True, slots=True)
class Run:
    """What is drawn of a session in one call.

    Attributes:
        part: what is fed.
        num_picks: tokens wanted behind its last rows.
        num_drafts: tokens wanted behind the last pick, one after the other.
        first_position: of the first of them.
        dice: of all of them.
        stop_ids: what is behind one of them is not wanted, and may be anything.
    """

    part: Part
    num_picks: int
    num_drafts: int
    first_position: int
    dice: Dice
    stop_ids: TokenArray


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

    def draw(self, runs: Sequence[Run]) -> list[TokenArray] | None:
        """Feeds every run's rows and draws its tokens, without a look at them in between; None:
        this decoder has no such call.

        Args:
            runs: most drafts first; positions for all tokens are reserved.
        """
        ...

    def without(self, mask: Collection[str]) -> Self:
        """The same weights and cache, not computing some parts.

        Args:
            mask: ``<layer>.attention`` and ``<layer>.mlp``, layers counted from 0.
        """
        ...
