"""Batched continuation of prompts by a Llama model, for making training samples.

Not an inference engine: no paging, no prefix sharing, no exact mode. All rows of a batch are at the
same position, so nothing is masked: the batch starts at its shortest prompt, and longer prompts are
fed token by token where the others already generate. Rows that ended are squeezed out.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as functional
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from specrouter_dist.engine.linear import is_packable
from specrouter_dist.errors import ConfigError

TOP_K = 64  # of 4,096: about 95 % of the mass at temperature 1
_SQUEEZE_BELOW = 0.75  # drop ended rows once fewer than this share of the batch is still running
_COMPUTED = {
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "rope_type": "default",
}
"""What a generator computes, as a model's configuration says it."""


@dataclass(frozen=True)
class TopK:
    """The ``TOP_K`` most probable next tokens at some positions, and their log-probabilities."""

    ids: npt.NDArray[np.uint16]
    log_probs: npt.NDArray[np.float16]

    @classmethod
    def of(cls, logits: Tensor) -> TopK:
        """Of logits (positions, vocabulary), normalised over the whole vocabulary."""
        values, ids = logits.topk(min(TOP_K, logits.shape[-1]), dim=-1)
        log_probs = values - logits.logsumexp(dim=-1, keepdim=True)
        return cls(ids.numpy().astype(np.uint16), log_probs.numpy().astype(np.float16))

    def __getitem__(self, positions: int | slice) -> TopK:
        return TopK(self.ids[positions], self.log_probs[positions])

    @classmethod
    def stack(cls, rows: Sequence[TopK]) -> TopK:
        """Join single positions into one block."""
        return cls(np.stack([row.ids for row in rows]), np.stack([row.log_probs for row in rows]))


@dataclass(frozen=True)
class Continuation:
    """New tokens and, for each, the distribution it was drawn from."""

    tokens: list[int]
    top: TopK


@dataclass
class _Text:
    """A row while it is generated."""

    tokens: list[int]
    prompt_length: int
    limit: int
    ended: bool = False
    rows: list[TopK] = field(default_factory=list)

    def extend(self, position: int, pick: int, ends: frozenset[int], row: TopK) -> None:
        """Append ``pick`` if the text ends at ``position``, that is if its prompt has been fed."""
        if self.ended or position < len(self.tokens):
            return
        self.tokens.append(pick)
        self.rows.append(row)
        self.ended = pick in ends or len(self.tokens) == self.limit

    def continuation(self) -> Continuation:
        return Continuation(self.tokens[self.prompt_length :], TopK.stack(self.rows))


def fastest_dtype() -> torch.dtype:
    """In which samples are made: bfloat16, as targets are served, where the CPU multiplies it."""
    return torch.bfloat16 if is_packable(torch.bfloat16) else torch.float32


def check_computed(config: LlamaConfig) -> None:
    """Whether a generator would say what such a model says.

    Raises:
        ConfigError: it computes something else; names what.
    """
    given = {**vars(config), "rope_type": config.rope_parameters["rope_type"]}
    other = [name for name, value in _COMPUTED.items() if given[name] != value]
    if other:
        wanted, got = (
            ", ".join(f"{name} {values[name]!r}" for name in other) for values in (_COMPUTED, given)
        )
        raise ConfigError(f"samples can be made of a target with {wanted}, got {got}")


class BatchGenerator:
    """A Llama model with fused projections and a preallocated key-value cache, in float32: of one
    new token attention takes half as long as in bfloat16, and it was most of a step."""

    def __init__(self, model: LlamaForCausalLM, dtype: torch.dtype = torch.float32) -> None:
        config = model.config
        check_computed(config)
        weights = {name: value.detach().to(dtype) for name, value in model.state_dict().items()}
        self._layers = [
            _fuse(weights, f"model.layers.{i}.") for i in range(config.num_hidden_layers)
        ]
        self._embedding = weights["model.embed_tokens.weight"]
        self._head = weights["lm_head.weight"]
        self._norm = weights["model.norm.weight"]
        self._epsilon = float(config.rms_norm_eps)
        self._heads = int(config.num_attention_heads)
        self._head_dim = int(config.head_dim)
        self._context = int(config.max_position_embeddings)
        positions = torch.arange(self._context, dtype=torch.float32)
        exponents = torch.arange(0, self._head_dim, 2, dtype=torch.float32) / self._head_dim
        angles = torch.outer(positions, config.rope_parameters["rope_theta"] ** -exponents)
        angles = torch.cat((angles, angles), dim=-1)
        self._cos, self._sin = angles.cos().to(dtype), angles.sin().to(dtype)
        self._ends = _end_ids(model)

    @torch.inference_mode()
    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        temperatures: Tensor,
        max_new: int,
        noise: torch.Generator,
    ) -> list[Continuation]:
        """Continue each prompt, best of similar length, until end-of-text or ``max_new`` tokens.

        A text that fills the context ends there; its prompt must not. ``temperatures`` has one
        entry per prompt, 0 being greedy. The end-of-text token is kept.
        """
        texts = [
            _Text(list(prompt), len(prompt), min(len(prompt) + max_new, self._context))
            for prompt in prompts
        ]
        start, end = min(text.prompt_length for text in texts), max(text.limit for text in texts)
        running, scale = list(texts), temperatures[:, None]
        cache = self._allocate(len(texts), end)
        fed = torch.tensor([text.tokens[:start] for text in texts])
        for position in range(start, end):
            logits = self.forward(fed, cache, position - fed.shape[1])[:, -1]
            gumbel = torch.empty_like(logits).exponential_(generator=noise).log_().neg_()
            picks = torch.addcmul(logits, gumbel, scale).argmax(dim=-1).tolist()
            top = TopK.of(logits)
            for row, (text, pick) in enumerate(zip(running, picks, strict=True)):
                text.extend(position, pick, self._ends, top[row])
            alive = [not text.ended for text in running]
            if not any(alive):
                break
            if sum(alive) < _SQUEEZE_BELOW * len(alive):
                kept = torch.tensor(alive)
                cache = [(keys[kept], values[kept]) for keys, values in cache]
                scale, running = scale[kept], list(itertools.compress(running, alive))
            fed = torch.tensor(
                [[text.tokens[min(position, len(text.tokens) - 1)]] for text in running]
            )
        return [text.continuation() for text in texts]

    @torch.inference_mode()
    def score(self, texts: Sequence[Sequence[int]]) -> list[TopK]:
        """The model's most probable next tokens at every position of each text."""
        longest = max(len(text) for text in texts)
        padded = torch.tensor([[*text, *([0] * (longest - len(text)))] for text in texts])
        logits = self.forward(padded, self._allocate(len(texts), longest), 0)
        return [TopK.of(logits[row, : len(text)]) for row, text in enumerate(texts)]

    def _allocate(self, rows: int, length: int) -> list[tuple[Tensor, Tensor]]:
        shape = (rows, self._heads, length, self._head_dim)
        return [(torch.empty(shape), torch.empty(shape)) for _ in self._layers]

    def forward(self, tokens: Tensor, cache: list[tuple[Tensor, Tensor]], start: int) -> Tensor:
        """Logits, (rows, positions, vocabulary).

        Keys and values go into ``cache`` from position ``start`` on.
        """
        hidden = functional.embedding(tokens, self._embedding)
        for layer, (keys, values) in zip(self._layers, cache, strict=True):
            normed = self._rms_norm(hidden, layer["input_norm"])
            mixed = self._attend(normed @ layer["qkv"], keys, values, start)
            hidden = hidden + mixed @ layer["out"]
            normed = self._rms_norm(hidden, layer["mlp_norm"])
            gate, up = (normed @ layer["gate_up"]).chunk(2, dim=-1)
            hidden = hidden + (functional.silu(gate) * up) @ layer["down"]
        return functional.linear(self._rms_norm(hidden, self._norm), self._head).float()

    def _attend(self, qkv: Tensor, keys: Tensor, values: Tensor, start: int) -> Tensor:
        rows, length, _ = qkv.shape
        end = start + length
        heads = qkv.view(rows, length, 3, self._heads, self._head_dim).permute(2, 0, 3, 1, 4)
        first, second = heads[:2].chunk(2, dim=-1)
        turned = torch.cat((-second, first), dim=-1)
        query, key = heads[:2] * self._cos[start:end] + turned * self._sin[start:end]
        keys[:, :, start:end], values[:, :, start:end] = key, heads[2]
        mixed = functional.scaled_dot_product_attention(
            query.float(), keys[:, :, :end], values[:, :, :end], is_causal=length > 1
        )
        return mixed.transpose(1, 2).reshape(rows, length, -1).to(qkv.dtype)

    def _rms_norm(self, hidden: Tensor, weight: Tensor) -> Tensor:
        return functional.rms_norm(hidden, (hidden.shape[-1],), weight, self._epsilon)


def _end_ids(model: LlamaForCausalLM) -> frozenset[int]:
    """Whatever ends a text where the model is served: Llama 3 has several."""
    found: set[int] = set()
    for ids in (model.config.eos_token_id, model.generation_config.eos_token_id):
        found.update(ids if isinstance(ids, list) else [] if ids is None else [ids])
    return frozenset(found)


def _fuse(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Transposed, fused matrices of one layer."""

    def stack(*names: str) -> Tensor:
        return torch.cat([weights[f"{prefix}{name}.weight"] for name in names]).t().contiguous()

    return {
        "qkv": stack("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        "out": stack("self_attn.o_proj"),
        "gate_up": stack("mlp.gate_proj", "mlp.up_proj"),
        "down": stack("mlp.down_proj"),
        "input_norm": weights[f"{prefix}input_layernorm.weight"],
        "mlp_norm": weights[f"{prefix}post_attention_layernorm.weight"],
    }


def similar_length_batches(prompts: Sequence[Sequence[int]], rows: int) -> Iterator[list[int]]:
    """Yield all indices of ``prompts``, sorted by length, in batches of ``rows``."""
    by_length = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    for start in range(0, len(by_length), rows):
        yield by_length[start : start + rows]
