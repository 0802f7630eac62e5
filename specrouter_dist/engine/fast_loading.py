"""What the fast engine holds for as long as it lives: weights and a KV cache."""

from pathlib import Path

import torch

from specrouter_dist.config import Dtype
from specrouter_dist.engine.kv_cache import PAGE_TOKENS, KvCache
from specrouter_dist.engine.llama import LlamaDecoder
from specrouter_dist.engine.llama_shape import LlamaShape
from specrouter_dist.engine.loading import TORCH_DTYPES, Checkpoint, attention_dtype, memory_plan


def load_decoder(
    directory: Path,
    shape: LlamaShape,
    *,
    dtype: Dtype,
    device: torch.device,
    num_pages: int,
    num_ids: int,
    exact: bool,
    int8: bool,
) -> tuple[LlamaDecoder, KvCache]:
    """Reads the weights and allocates a cache of ``num_pages``, if there is memory for both.

    Raises:
        ConfigError: there is not, or a file or tensor is missing or broken.
    """
    plan = memory_plan(
        shape,
        dtype=dtype,
        int8=int8,
        device=device,
        kv_tokens=num_pages * PAGE_TOKENS,
        num_ids=num_ids,
    )
    plan.check_fits(device)
    kv_dtype = attention_dtype(dtype, device)
    with Checkpoint(directory) as checkpoint:
        decoder = LlamaDecoder(
            shape,
            checkpoint,
            dtype=TORCH_DTYPES[dtype],
            attention_dtype=kv_dtype,
            device=device,
            num_ids=num_ids,
            exact=exact,
            int8=int8,
        )
    cache = KvCache(
        shape.num_layers, num_pages, shape.num_kv_heads, shape.head_dim, kv_dtype, device
    )
    return decoder, cache
