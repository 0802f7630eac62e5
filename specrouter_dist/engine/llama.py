"""The decoder of the Llama family: weights fused and laid out once, few operations per layer."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from specrouter_dist.engine.exactness import rows_at_once
from specrouter_dist.engine.linear import Linear, make_linear
from specrouter_dist.engine.llama_shape import LlamaShape
from specrouter_dist.engine.loading import Checkpoint

Attend = Callable[[int, Tensor], Tensor]
"""Of a layer's number and its queries, keys and values ``[rows, query_size + kv_size]``, rotated:
stores keys and values, and returns ``[rows, query_size]`` in any dtype."""


@dataclass(frozen=True, slots=True)
class _Layer:
    norm: Tensor
    qkv: Linear
    qk_norm: Tensor | None
    """``[num_heads + num_kv_heads, head_dim]``."""
    out: Linear
    mlp_norm: Tensor
    gate_up: Linear
    down: Linear


class _Reader:
    """Tensors of a checkpoint in the engine's dtype, on its device."""

    def __init__(self, checkpoint: Checkpoint, dtype: torch.dtype, device: torch.device) -> None:
        self._checkpoint = checkpoint
        self._dtype = dtype
        self._device = device

    def tensor(self, name: str, *shape: int) -> Tensor:
        return self._checkpoint.read(name, *shape).to(self._device, self._dtype).contiguous()

    def fused(
        self, names: list[str], outs: list[int], width: int, bias: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Several linear layers over the same input as one: weight and bias."""
        weights = [
            self.tensor(f"{name}.weight", out, width) for name, out in zip(names, outs, strict=True)
        ]
        if not bias:
            return torch.cat(weights), None
        biases = [self.tensor(f"{name}.bias", out) for name, out in zip(names, outs, strict=True)]
        return torch.cat(weights), torch.cat(biases)


class LlamaDecoder:
    """Weights of one model and the forward over rows of tokens; no session, no cache in it.

    Rotary embeddings are complex products of adjacent pairs, which is one operation. The pairs of
    the checkpoint (element ``j`` with ``j + head_dim / 2``) are made adjacent by permuting the
    rows of the query and key weights at load, which changes no attention score.
    """

    def __init__(
        self,
        shape: LlamaShape,
        checkpoint: Checkpoint,
        *,
        dtype: torch.dtype,
        attention_dtype: torch.dtype,
        device: torch.device,
        num_ids: int,
    ) -> None:
        """Reads the weights.

        Raises:
            ConfigError: a tensor is missing, unreadable or of another shape than the config says.
        """
        self.shape = shape
        self._attention_dtype = attention_dtype
        reader = _Reader(checkpoint, dtype, device)
        hidden = shape.hidden_size
        self._embedding = reader.tensor("model.embed_tokens.weight", shape.vocab_size, hidden)
        self._embedding = self._embedding[:num_ids].clone()
        self._layers = [_read_layer(shape, reader, i) for i in range(shape.num_layers)]
        self._norm = reader.tensor("model.norm.weight", hidden)
        if shape.tied:
            self._head = make_linear(self._embedding, None)
        else:
            head = reader.tensor("lm_head.weight", shape.vocab_size, hidden)
            self._head = make_linear(head[:num_ids].clone(), None)
        self._rotary_rows = rows_at_once(shape.query_size + shape.kv_size // 2)
        self._gate_rows = rows_at_once(shape.intermediate_size)

    @property
    def weight_bytes(self) -> int:
        """As held in memory: a tied head counts twice, since it is packed apart."""
        linears = [self._head]
        for layer in self._layers:
            linears += [layer.qkv, layer.out, layer.gate_up, layer.down]
        return self._embedding.nbytes + sum(linear.weight_bytes for linear in linears)

    def forward(self, ids: Tensor, rotations: Tensor, attend: Attend) -> Tensor:
        """Runs all layers.

        Args:
            ids: int32 ``[rows]``.
            rotations: complex64 ``[rows, 1, head_dim / 2]``, of each row's position.
            attend: stores and reads the cache.

        Returns:
            The residual stream after the last layer, ``[rows, hidden_size]``.
        """
        shape = self.shape
        width, eps = (shape.hidden_size,), shape.norm_eps
        rows = self._embedding.index_select(0, ids)
        for number, layer in enumerate(self._layers):
            qkv = layer.qkv(F.rms_norm(rows, width, layer.norm, eps)).float()
            self._rotate(qkv, layer.qk_norm, rotations)
            mixed = attend(number, qkv.to(self._attention_dtype))
            rows = layer.out.add_to(rows, mixed.to(rows.dtype))
            wide = layer.gate_up(F.rms_norm(rows, width, layer.mlp_norm, eps))
            rows = layer.down.add_to(rows, self._gate(wide))
        return rows

    def logits(self, rows: Tensor) -> Tensor:
        """Float32 logits ``[rows, num_ids]`` of rows of the residual stream."""
        rows = F.rms_norm(rows, (self.shape.hidden_size,), self._norm, self.shape.norm_eps)
        return self._head(rows).float()

    def _rotate(self, qkv: Tensor, qk_norm: Tensor | None, rotations: Tensor) -> None:
        """Rotates queries and keys in place."""
        shape = self.shape
        size = shape.query_size + shape.kv_size // 2
        heads = qkv[:, :size].view(qkv.shape[0], -1, shape.head_dim)
        if qk_norm is not None:
            heads.copy_(F.rms_norm(heads, (shape.head_dim,), None, shape.norm_eps).mul_(qk_norm))
        pairs = torch.view_as_complex(heads.view(*heads.shape[:2], -1, 2))
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
        gate, up = torch.split(wide, self.shape.intermediate_size, dim=1)
        if gate.shape[0] <= self._gate_rows:
            return F.silu(gate).mul_(up)
        return torch.cat([F.silu(few) for few in torch.split(gate, self._gate_rows)]).mul_(up)


def _read_layer(shape: LlamaShape, reader: _Reader, number: int) -> _Layer:
    prefix = f"model.layers.{number}"
    attention, mlp = f"{prefix}.self_attn", f"{prefix}.mlp"
    hidden, wide, query = shape.hidden_size, shape.intermediate_size, shape.query_size
    key = shape.kv_size // 2
    qkv, qkv_bias = reader.fused(
        [f"{attention}.{name}_proj" for name in "qkv"], [query, key, key], hidden, shape.qkv_bias
    )
    order = _paired_order(shape).to(qkv.device)
    out, out_bias = reader.fused([f"{attention}.o_proj"], [hidden], query, shape.out_bias)
    gate_up, gate_up_bias = reader.fused(
        [f"{mlp}.gate_proj", f"{mlp}.up_proj"], [wide, wide], hidden, shape.mlp_bias
    )
    down, down_bias = reader.fused([f"{mlp}.down_proj"], [hidden], wide, shape.mlp_bias)
    return _Layer(
        norm=reader.tensor(f"{prefix}.input_layernorm.weight", hidden),
        qkv=make_linear(qkv[order], None if qkv_bias is None else qkv_bias[order]),
        qk_norm=_read_qk_norm(shape, reader, attention) if shape.qk_norm else None,
        out=make_linear(out, out_bias),
        mlp_norm=reader.tensor(f"{prefix}.post_attention_layernorm.weight", hidden),
        gate_up=make_linear(gate_up, gate_up_bias),
        down=make_linear(down, down_bias),
    )


def _paired_head(shape: LlamaShape) -> Tensor:
    """Order of a head's elements in which the two of each rotary pair are neighbours."""
    return torch.arange(shape.head_dim).view(2, -1).t().reshape(-1)


def _paired_order(shape: LlamaShape) -> Tensor:
    """The same for all rows of the fused weight; values keep their order."""
    heads = torch.arange(shape.num_heads + shape.num_kv_heads)[:, None] * shape.head_dim
    rotated = (heads + _paired_head(shape)).reshape(-1)
    return torch.cat([rotated, torch.arange(len(rotated), len(rotated) + shape.kv_size // 2)])


def _read_qk_norm(shape: LlamaShape, reader: _Reader, attention: str) -> Tensor:
    order = _paired_head(shape)
    query, key = (
        reader.tensor(f"{attention}.{name}_norm.weight", shape.head_dim).float()[order]
        for name in "qk"
    )
    return torch.cat([query.expand(shape.num_heads, -1), key.expand(shape.num_kv_heads, -1)])
