"""The layers of the Llama family in torch's operations: fused weights, few operations per layer."""

from collections.abc import Callable, Collection
from copy import copy
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from specrouter_dist.config import Quantization
from specrouter_dist.engine.eight_bits import make_quantised
from specrouter_dist.engine.exactness import rows_at_once
from specrouter_dist.engine.linear import make_linear
from specrouter_dist.engine.llama_layers import Reader, read_embeddings, read_layer
from specrouter_dist.engine.llama_shape import LlamaShape
from specrouter_dist.engine.loading import Weights
from specrouter_dist.engine.lora import AdaptedRows
from specrouter_dist.engine.norm import RmsNorm
from specrouter_dist.engine.workspace import Workspace, Workspaces


class LlamaLayers:
    """Weights of one model and the forward over rows of tokens; no session, no cache in it.

    Rotary embeddings are complex products of adjacent pairs, which is one operation. The pairs of
    the checkpoint (element ``j`` with ``j + head_dim / 2``) are made adjacent by permuting the
    rows of the query and key weights at load, which changes no attention score.
    """

    def __init__(
        self,
        shape: LlamaShape,
        weights: Weights,
        *,
        dtype: torch.dtype,
        attention_dtype: torch.dtype,
        device: torch.device,
        num_ids: int,
        exact: bool,
        quantization: Quantization | None,
    ) -> None:
        """Reads the weights.

        Args:
            shape: sizes of the model.
            weights: where its tensors are.
            dtype: of weights and activations.
            attention_dtype: of queries, keys and values.
            device: where the weights go.
            num_ids: rows of embedding and head that are kept.
            exact: whether a row's rounding must not depend on the number of rows.
            quantization: of the weights, to 8 bits; activations are bfloat16 then.

        Raises:
            ConfigError: a tensor is missing, unreadable or of another shape than the config says.
        """
        self.shape = shape
        self.layer_dtype = dtype = torch.bfloat16 if quantization else dtype
        """Of the layers' weights and activations."""
        self.workspaces = Workspaces(
            shape, layer_dtype=dtype, attention_dtype=attention_dtype, device=device
        )
        self._norm = RmsNorm(shape.hidden_size, shape.norm_eps, dtype, device)
        make = (
            partial(make_linear, exact=exact, tried={})
            if quantization is None
            else partial(make_quantised, quantization=quantization)
        )
        reader = Reader(weights, dtype, device, make, make, self._norm.prepare)
        self._embedding, head = read_embeddings(shape, reader, num_ids)
        self._layers = [read_layer(shape, reader, i) for i in range(shape.num_layers)]
        self._last_norm = reader.norm("model.norm", shape.hidden_size)
        self._head = make(head, None)
        self._rotary_rows = rows_at_once(shape.query_size + shape.kv_size // 2, device)
        self._gate_rows = rows_at_once(shape.intermediate_size, device)

    @property
    def weight_bytes(self) -> int:
        """As held in memory: a tied head counts twice, since it is packed apart."""
        linears = [self._head, *(linear for layer in self._layers for linear in layer.linears())]
        return self._embedding.nbytes + sum(linear.weight_bytes for linear in linears)

    def without(self, mask: Collection[str]) -> "LlamaLayers":
        """The same weights and workspaces, not computing some parts.

        Args:
            mask: ``<layer>.attention`` and ``<layer>.mlp``, layers counted from 0.
        """
        slim = copy(self)
        slim._layers = [layer.without(number, mask) for number, layer in enumerate(self._layers)]
        return slim

    def forward(
        self,
        ids: Tensor,
        rotations: Tensor,
        work: Workspace,
        attend: Callable[[int], None],
        adapted: AdaptedRows | None = None,
    ) -> Tensor:
        """Runs all layers.

        Args:
            ids: int32 ``[rows]``.
            rotations: complex64 ``[rows, 1, head_dim / 2]``, of each row's position.
            work: for as many rows.
            attend: for a layer's number, stores the keys and values of ``work.attended`` and
                leaves the attention's result in ``work.mixed``.
            adapted: rows that adapters add to.

        Returns:
            The residual stream after the last layer, ``[rows, hidden_size]``.
        """
        norm = self._norm
        converts = work.attended is not work.qkv
        rows = self._embedding.index_select(0, ids)
        for number, layer in enumerate(self._layers):
            attention, mlp = layer.attention, layer.mlp
            if attention is not None:
                normed = norm(rows, attention.norm)
                work.qkv.copy_(attention.qkv(normed))
                if adapted is not None:
                    adapted.add(number, "qkv", work.qkv, normed)
                self._rotate(work, attention.qk_norm, rotations)
                if converts:
                    work.attended.copy_(work.qkv)
                attend(number)
                rows = attention.out.add_to(rows, work.mixed)
                if adapted is not None:
                    adapted.add(number, "out", rows, work.mixed)
            if mlp is not None:
                normed = norm(rows, mlp.norm)
                wide = mlp.gate_up(normed)
                if adapted is not None:
                    adapted.add(number, "gate_up", wide, normed)
                gated = self._gate(wide)
                rows = mlp.down.add_to(rows, gated)
                if adapted is not None:
                    adapted.add(number, "down", rows, gated)
        return rows

    def logits(self, rows: Tensor) -> Tensor:
        """Float32 logits ``[rows, num_ids]`` of rows of the residual stream."""
        rows = self._norm(rows, self._last_norm)
        return self._head(rows).float()

    def _rotate(self, work: Workspace, qk_norm: Tensor | None, rotations: Tensor) -> None:
        """Rotates queries and keys in place."""
        heads, pairs = work.heads, work.pairs
        if qk_norm is not None:
            heads.copy_(F.rms_norm(heads, heads.shape[2:], None, self.shape.norm_eps).mul_(qk_norm))
        step = self._rotary_rows
        if pairs.shape[0] <= step:
            pairs.mul_(rotations)
        else:
            for few, few_rotations in zip(
                torch.split(pairs, step), torch.split(rotations, step), strict=True
            ):
                few.mul_(few_rotations)

    def _gate(self, wide: Tensor) -> Tensor:
        """``silu(gate) * up`` of ``[rows, 2 * intermediate_size]``."""
        gate, up = wide.chunk(2, dim=1)
        if gate.shape[0] <= self._gate_rows:
            return F.silu(gate).mul_(up)
        return torch.cat([F.silu(few) for few in torch.split(gate, self._gate_rows)]).mul_(up)
