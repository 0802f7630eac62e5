"""The decoder of the Llama family: weights fused and laid out once, few operations per layer."""

from collections.abc import Callable, Collection, Iterator
from copy import copy
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from specrouter_dist.config import Quantization
from specrouter_dist.engine.eight_bits import make_quantised
from specrouter_dist.engine.exactness import rows_at_once
from specrouter_dist.engine.linear import SMALL_WEIGHTS, Linear, Tried, make_linear
from specrouter_dist.engine.llama_shape import LlamaShape, paired_head, paired_order
from specrouter_dist.engine.loading import Weights
from specrouter_dist.engine.lora import AdaptedRows
from specrouter_dist.engine.norm import RmsNorm
from specrouter_dist.engine.workspace import Workspace, Workspaces


@dataclass(frozen=True, slots=True)
class _Attention:
    norm: Tensor
    qkv: Linear
    qk_norm: Tensor | None
    """``[num_heads + num_kv_heads, head_dim]``."""
    out: Linear


@dataclass(frozen=True, slots=True)
class _Mlp:
    norm: Tensor
    gate_up: Linear
    down: Linear


@dataclass(frozen=True, slots=True)
class _Layer:
    """None: left out."""

    attention: _Attention | None
    mlp: _Mlp | None

    def linears(self) -> Iterator[Linear]:
        if self.attention is not None:
            yield from (self.attention.qkv, self.attention.out)
        if self.mlp is not None:
            yield from (self.mlp.gate_up, self.mlp.down)


class _Reader:
    """Tensors in the engine's dtype, on its device."""

    def __init__(
        self,
        weights: Weights,
        dtype: torch.dtype,
        device: torch.device,
        *,
        exact: bool,
        quantization: Quantization | None,
    ) -> None:
        self._weights = weights
        self._dtype = dtype
        self._device = device
        self._exact = exact
        self._quantization = quantization
        self._tried: Tried = {}

    def tensor(self, name: str, *shape: int) -> Tensor:
        return self._weights.read(name, *shape).to(self._device, self._dtype).contiguous()

    def linear(
        self, outs: dict[str, int], width: int, *, bias: bool, order: Tensor | None = None
    ) -> Linear:
        """Linear layers over the same input as one.

        Args:
            outs: their names and numbers of outputs.
            width: number of inputs.
            bias: whether they have one.
            order: of the fused outputs; None: as they come.
        """
        weight = torch.cat([self.tensor(f"{name}.weight", outs[name], width) for name in outs])
        biases = [self.tensor(f"{name}.bias", outs[name]) for name in outs] if bias else None
        fused = None if biases is None else torch.cat(biases)
        if order is not None:
            order = order.to(weight.device)
            weight = weight[order]
            fused = None if fused is None else fused[order]
        return self.layer(weight, fused)

    def layer(self, weight: Tensor, bias: Tensor | None) -> Linear:
        if self._quantization is None:
            return make_linear(weight, bias, exact=self._exact, tried=self._tried)
        return make_quantised(weight, bias, self._quantization)


class LlamaDecoder:
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
            dtype: of weights and activations; where ``exact`` is not asked for, a small model's
                layers are held in float32 on the CPU all the same, which is faster there.
            attention_dtype: of queries, keys and values.
            device: where the weights go.
            num_ids: rows of embedding and head that are kept.
            exact: whether a row's rounding must not depend on the number of rows.
            quantization: of the weights, to 8 bits; activations are bfloat16 then.

        Raises:
            ConfigError: a tensor is missing, unreadable or of another shape than the config says.
        """
        self.shape = shape
        dtype = torch.bfloat16 if quantization else dtype
        fixed = exact or quantization is not None
        self.layer_dtype = _layer_dtype(shape, dtype, device, fixed=fixed)
        """Of the layers' weights and activations."""
        self.workspaces = Workspaces(
            shape, layer_dtype=self.layer_dtype, attention_dtype=attention_dtype, device=device
        )
        reader = _Reader(weights, self.layer_dtype, device, exact=exact, quantization=quantization)
        hidden = shape.hidden_size
        self._embedding = reader.tensor("model.embed_tokens.weight", shape.vocab_size, hidden)
        self._embedding = self._embedding[:num_ids].clone()
        self._norm = RmsNorm(hidden, shape.norm_eps, self.layer_dtype, device)
        self._layers = [_read_layer(shape, reader, i, self._norm) for i in range(shape.num_layers)]
        self._last_norm = self._norm.prepare(reader.tensor("model.norm.weight", hidden))
        head = self._embedding
        if not shape.tied:
            head = reader.tensor("lm_head.weight", shape.vocab_size, hidden)[:num_ids].clone()
        self._head_dtype = dtype
        self._head = reader.layer(head.to(dtype), None)
        self._rotary_rows = rows_at_once(shape.query_size + shape.kv_size // 2, device)
        self._gate_rows = rows_at_once(shape.intermediate_size, device)

    @property
    def weight_bytes(self) -> int:
        """As held in memory: a tied head counts twice, since it is packed apart."""
        linears = [self._head, *(linear for layer in self._layers for linear in layer.linears())]
        return self._embedding.nbytes + sum(linear.weight_bytes for linear in linears)

    def without(self, mask: Collection[str]) -> "LlamaDecoder":
        """The same weights and workspaces, not computing some parts.

        Args:
            mask: ``<layer>.attention`` and ``<layer>.mlp``, layers counted from 0.
        """
        slim = copy(self)
        slim._layers = [
            _Layer(
                attention=None if f"{number}.attention" in mask else layer.attention,
                mlp=None if f"{number}.mlp" in mask else layer.mlp,
            )
            for number, layer in enumerate(self._layers)
        ]
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
        return self._head(rows.to(self._head_dtype)).float()

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


def _read_layer(shape: LlamaShape, reader: _Reader, number: int, norm: RmsNorm) -> _Layer:
    prefix = f"model.layers.{number}"
    attention, mlp = f"{prefix}.self_attn", f"{prefix}.mlp"
    hidden, wide, query = shape.hidden_size, shape.intermediate_size, shape.query_size
    key = shape.kv_size // 2
    own_attention = _Attention(
        norm=norm.prepare(reader.tensor(f"{prefix}.input_layernorm.weight", hidden)),
        qkv=reader.linear(
            {
                f"{attention}.{name}_proj": out
                for name, out in zip("qkv", (query, key, key), strict=True)
            },
            hidden,
            bias=shape.qkv_bias,
            order=paired_order(shape),
        ),
        qk_norm=_read_qk_norm(shape, reader, attention) if shape.qk_norm else None,
        out=reader.linear({f"{attention}.o_proj": hidden}, query, bias=shape.out_bias),
    )
    own_mlp = _Mlp(
        norm=norm.prepare(reader.tensor(f"{prefix}.post_attention_layernorm.weight", hidden)),
        gate_up=reader.linear(
            {f"{mlp}.gate_proj": wide, f"{mlp}.up_proj": wide}, hidden, bias=shape.mlp_bias
        ),
        down=reader.linear({f"{mlp}.down_proj": hidden}, wide, bias=shape.mlp_bias),
    )
    return _Layer(own_attention, own_mlp)


def _layer_dtype(
    shape: LlamaShape, dtype: torch.dtype, device: torch.device, *, fixed: bool
) -> torch.dtype:
    qkv = shape.query_size + shape.kv_size
    widest = shape.hidden_size * max(qkv, 2 * shape.intermediate_size)
    small = device.type == "cpu" and widest <= SMALL_WEIGHTS
    return torch.float32 if small and not fixed else dtype


def _read_qk_norm(shape: LlamaShape, reader: _Reader, attention: str) -> Tensor:
    order = paired_head(shape)
    query, key = (
        reader.tensor(f"{attention}.{name}_norm.weight", shape.head_dim).float()[order]
        for name in "qk"
    )
    return torch.cat([query.expand(shape.num_heads, -1), key.expand(shape.num_kv_heads, -1)])
