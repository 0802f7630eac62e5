"""The weights of a model of the Llama family, layer by layer, with linear layers fused."""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor

from specrouter_dist.engine.llama_shape import LlamaShape, paired_head, paired_order
from specrouter_dist.engine.loading import Weights

L = TypeVar("L")
"""How a decoder holds a linear layer."""


@dataclass(frozen=True, slots=True)
class Attention(Generic[L]):
    norm: Tensor
    qkv: L
    qk_norm: Tensor | None
    """Float32 ``[num_heads + num_kv_heads, head_dim]``."""
    out: L


@dataclass(frozen=True, slots=True)
class Mlp(Generic[L]):
    norm: Tensor
    gate_up: L
    down: L


@dataclass(frozen=True, slots=True)
class Layer(Generic[L]):
    """None: left out."""

    attention: Attention[L] | None
    mlp: Mlp[L] | None

    def without(self, number: int, mask: Collection[str]) -> "Layer[L]":
        """The same, the layer of this number, without what a mask leaves out."""
        return Layer(
            attention=None if f"{number}.attention" in mask else self.attention,
            mlp=None if f"{number}.mlp" in mask else self.mlp,
        )

    def linears(self) -> Iterator[L]:
        """Those that are not left out."""
        if self.attention is not None:
            yield from (self.attention.qkv, self.attention.out)
        if self.mlp is not None:
            yield from (self.mlp.gate_up, self.mlp.down)


@dataclass(frozen=True, slots=True)
class Reader(Generic[L]):
    """What tensors become.

    Attributes:
        weights: where they come from.
        dtype: of all but norms.
        device: where they go.
        make_linear: of a weight ``[out_features, in_features]`` and a bias.
        make_gate_up: the same of the MLP's first layer, gates before ups.
        prepare_norm: a weight, as the decoder wants it.
    """

    weights: Weights
    dtype: torch.dtype
    device: torch.device
    make_linear: Callable[[Tensor, Tensor | None], L]
    make_gate_up: Callable[[Tensor, Tensor | None], L]
    prepare_norm: Callable[[Tensor], Tensor]

    def tensor(self, name: str, *shape: int) -> Tensor:
        return self.weights.read(name, *shape).to(self.device, self.dtype).contiguous()

    def norm(self, name: str, width: int) -> Tensor:
        return self.prepare_norm(self.tensor(f"{name}.weight", width))

    def fused(
        self, outs: Mapping[str, int], width: int, *, bias: bool, order: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Weight and bias of linear layers over the same input.

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
        return weight, fused


def read_layer(shape: LlamaShape, reader: Reader[L], number: int) -> Layer[L]:
    """One layer.

    Raises:
        ConfigError: a tensor is missing, unreadable or of another shape than the config says.
    """
    prefix = f"model.layers.{number}"
    attention, mlp = f"{prefix}.self_attn", f"{prefix}.mlp"
    hidden, wide, has_bias = shape.hidden_size, shape.intermediate_size, shape.mlp_bias
    query, key = shape.query_size, shape.kv_size // 2
    own_attention = Attention(
        norm=reader.norm(f"{prefix}.input_layernorm", hidden),
        qkv=reader.make_linear(
            *reader.fused(
                {f"{attention}.q_proj": query} | {f"{attention}.{n}_proj": key for n in "kv"},
                hidden,
                bias=shape.qkv_bias,
                order=paired_order(shape),
            )
        ),
        qk_norm=_read_qk_norm(shape, reader, attention) if shape.qk_norm else None,
        out=reader.make_linear(
            *reader.fused({f"{attention}.o_proj": hidden}, query, bias=shape.out_bias)
        ),
    )
    own_mlp = Mlp(
        norm=reader.norm(f"{prefix}.post_attention_layernorm", hidden),
        gate_up=reader.make_gate_up(
            *reader.fused({f"{mlp}.{n}_proj": wide for n in ("gate", "up")}, hidden, bias=has_bias)
        ),
        down=reader.make_linear(*reader.fused({f"{mlp}.down_proj": hidden}, wide, bias=has_bias)),
    )
    return Layer(own_attention, own_mlp)


def read_embeddings(shape: LlamaShape, reader: Reader[L], num_ids: int) -> tuple[Tensor, Tensor]:
    """The first ``num_ids`` rows of the embedding and of the head, the same tensor where tied."""
    sizes = shape.vocab_size, shape.hidden_size
    embedding = reader.tensor("model.embed_tokens.weight", *sizes)[:num_ids].clone()
    if shape.tied:
        return embedding, embedding
    return embedding, reader.tensor("lm_head.weight", *sizes)[:num_ids].clone()


def _read_qk_norm(shape: LlamaShape, reader: Reader[L], attention: str) -> Tensor:
    order = paired_head(shape)
    query, key = (
        reader.tensor(f"{attention}.{name}_norm.weight", shape.head_dim).float()[order]
        for name in "qk"
    )
    return torch.cat([query.expand(shape.num_heads, -1), key.expand(shape.num_kv_heads, -1)])
