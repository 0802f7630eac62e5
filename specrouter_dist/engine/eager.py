"""The decoder in torch's operations, on any device (implements ``Decoder``)."""

from collections.abc import Collection, Sequence
from copy import copy
from typing import Self

import torch
from torch import Tensor

from specrouter_dist.engine.decoder import Part, Run
from specrouter_dist.engine.exactness import CausalMasks, padded_rows
from specrouter_dist.engine.kv_cache import KvCache
from specrouter_dist.engine.llama import LlamaLayers
from specrouter_dist.engine.lora import AdaptedRows
from specrouter_dist.engine.ragged import RaggedBatch


class EagerDecoder:
    """One model of the Llama family.

    Args:
        layers: its weights.
        cache: of its keys and values.
        rotary: complex64 ``[positions, 1, head_dim / 2]``.
        masks: of its attention.
        exact: whether picks must not depend on batch and block sizes
            (:mod:`~specrouter_dist.engine.exactness`).
    """

    def __init__(
        self,
        layers: LlamaLayers,
        cache: KvCache,
        rotary: Tensor,
        masks: CausalMasks,
        *,
        exact: bool,
    ) -> None:
        self.shape = layers.shape
        self.cache = cache
        self.layer_dtype = layers.layer_dtype
        self._layers = layers
        self._rotary = rotary
        self._masks = masks
        self._exact = exact

    @property
    def weight_bytes(self) -> int:
        return self._layers.weight_bytes

    @torch.inference_mode()
    def forward(self, parts: Sequence[Part]) -> Tensor:
        rows = RaggedBatch(
            parts,
            self.cache,
            self._masks,
            self._rotary,
            self._layers.workspaces,
            exact=self._exact,
        )
        adapted = AdaptedRows.of((part.adapter, len(part.tokens)) for part in parts)
        return self._layers.forward(rows.ids, rows.rotations, rows.work, rows.attend, adapted)

    @torch.inference_mode()
    def logits(self, hidden: Tensor, rows: Sequence[int]) -> Tensor:
        count = len(rows)
        if len(hidden) != count or rows[0] != 0:
            missing = padded_rows(count) - count if self._exact else 0
            wanted = [*rows, *[rows[-1]] * missing]
            hidden = hidden.index_select(0, torch.tensor(wanted, device=hidden.device))
        return self._layers.logits(hidden)[:count]

    def draw(self, runs: Sequence[Run]) -> None:
        return

    def without(self, mask: Collection[str]) -> Self:
        slim = copy(self)
        slim._layers = self._layers.without(mask)
        # Nobody reads its text, and whose KV it reads depends on when the target has verified.
        slim._exact = False
        return slim
