"""Buffers of one forward and the views of them that every layer needs, made once.

A view costs as much to make as a small operation to run, and a layer needs a dozen.
"""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from specrouter_dist.engine.llama_shape import LlamaShape


@dataclass(frozen=True, slots=True)
class Workspace:
    """What one layer passes to its attention and back, overwritten by the next."""

    qkv: Tensor
    """Float32 ``[rows, query_size + kv_size]``."""
    heads: Tensor
    """Queries and keys of ``qkv``: ``[rows, num_heads + num_kv_heads, head_dim]``."""
    pairs: Tensor
    """The same, complex: ``[rows, num_heads + num_kv_heads, head_dim / 2]``."""
    attended: Tensor
    """``qkv`` in the attention's dtype; the same tensor where that is float32."""
    queries: Tensor
    """Of ``attended``: ``[1, num_heads, rows, head_dim]``."""
    fresh: Tensor
    """Keys and values of ``attended``: ``[rows, kv_size]``."""
    mixed: Tensor
    """The attention's result in the dtype of the layers, ``[rows, query_size]``."""
    mixed_heads: Tensor
    """The same as ``[1, num_heads, rows, head_dim]``."""

    @classmethod
    def make(
        cls,
        shape: LlamaShape,
        num_rows: int,
        *,
        layer_dtype: torch.dtype,
        attention_dtype: torch.dtype,
        device: torch.device,
    ) -> Self:
        """Allocates the buffers for forwards of ``num_rows``."""
        width, query = shape.query_size + shape.kv_size, shape.query_size
        qkv = torch.zeros(num_rows, width, device=device)
        attended = qkv.to(attention_dtype)
        mixed = torch.zeros(num_rows, query, dtype=layer_dtype, device=device)
        heads = qkv[:, : query + shape.kv_size // 2].view(num_rows, -1, shape.head_dim)
        return cls(
            qkv=qkv,
            heads=heads,
            pairs=torch.view_as_complex(heads.view(*heads.shape[:2], -1, 2)),
            attended=attended,
            queries=attended[:, :query].view(1, num_rows, -1, shape.head_dim).transpose(1, 2),
            fresh=attended[:, query:],
            mixed=mixed,
            mixed_heads=mixed.view(1, num_rows, -1, shape.head_dim).transpose(1, 2),
        )


class Workspaces:
    """The workspace of each number of rows; small ones, which recur, are kept."""

    _KEPT_ROWS = 32

    def __init__(
        self,
        shape: LlamaShape,
        *,
        layer_dtype: torch.dtype,
        attention_dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self._shape = shape
        self._layer_dtype = layer_dtype
        self._attention_dtype = attention_dtype
        self._device = device
        self._kept: dict[int, Workspace] = {}

    def of(self, num_rows: int) -> Workspace:
        """A workspace for ``num_rows``, whose contents are left from an earlier forward."""
        if num_rows in self._kept:
            return self._kept[num_rows]
        workspace = Workspace.make(
            self._shape,
            num_rows,
            layer_dtype=self._layer_dtype,
            attention_dtype=self._attention_dtype,
            device=self._device,
        )
        if num_rows <= self._KEPT_ROWS:
            self._kept[num_rows] = workspace
        return workspace
