"""What the fast engine holds for as long as it lives: weights, a KV cache and tables."""

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
from torch import Tensor

from specrouter_dist.config import Dtype, Quantization
from specrouter_dist.engine.exactness import CausalMasks
from specrouter_dist.engine.kv_cache import PAGE_TOKENS, KvCache, pages_for
from specrouter_dist.engine.llama import LlamaDecoder
from specrouter_dist.engine.llama_shape import LlamaShape, rotary_table
from specrouter_dist.engine.loading import (
    TORCH_DTYPES,
    Checkpoint,
    Weights,
    attention_dtype,
    memory_plan,
)

_MOST_PADDING_ROWS = 128


def load_decoder(
    directory: Path,
    shape: LlamaShape,
    weights: Weights | None,
    *,
    dtype: Dtype,
    device: torch.device,
    num_pages: int,
    num_ids: int,
    exact: bool,
    quantization: Quantization | None,
) -> tuple[LlamaDecoder, KvCache]:
    """Reads ``weights`` (None: those in ``directory``) and allocates a cache of ``num_pages``, if
    there is memory for both.

    Raises:
        ConfigError: there is not, or a file or tensor is missing or broken.
    """
    plan = memory_plan(
        shape,
        dtype=dtype,
        quantization=quantization,
        device=device,
        kv_tokens=num_pages * PAGE_TOKENS,
        num_ids=num_ids,
    )
    plan.check_fits(device)
    kv_dtype = attention_dtype(dtype, device)
    source: AbstractContextManager[Weights] = (
        Checkpoint(directory) if weights is None else nullcontext(weights)
    )
    with source as tensors:
        decoder = LlamaDecoder(
            shape,
            tensors,
            dtype=TORCH_DTYPES[dtype],
            attention_dtype=kv_dtype,
            device=device,
            num_ids=num_ids,
            exact=exact,
            quantization=quantization,
        )
    cache = KvCache(
        shape.num_layers, num_pages, shape.num_kv_heads, shape.head_dim, kv_dtype, device
    )
    return decoder, cache


def position_tables(
    decoder: LlamaDecoder, cache: KvCache, context_tokens: int
) -> tuple[Tensor, CausalMasks]:
    """Rotations of every position, and masks."""
    rotary = rotary_table(decoder.shape, context_tokens + _MOST_PADDING_ROWS).to(cache.device)
    max_keys = pages_for(context_tokens) * PAGE_TOKENS
    return rotary, CausalMasks(max_keys, cache.layers[0].dtype, cache.device)
