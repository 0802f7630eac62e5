"""The decoder that the fast engine holds: which one, its weights and its KV cache."""

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch

from specrouter_dist.config import Dtype, Quantization
from specrouter_dist.engine.cpu.decoder import CompiledDecoder
from specrouter_dist.engine.cpu.library import Library, find_library
from specrouter_dist.engine.decoder import Decoder
from specrouter_dist.engine.eager import EagerDecoder
from specrouter_dist.engine.exactness import CausalMasks
from specrouter_dist.engine.kv_cache import PAGE_TOKENS, KvCache, pages_for
from specrouter_dist.engine.llama import LlamaLayers
from specrouter_dist.engine.llama_shape import LlamaShape, rotary_table
from specrouter_dist.engine.loading import (
    TORCH_DTYPES,
    Checkpoint,
    Weights,
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
    context_tokens: int,
    exact: bool,
    quantization: Quantization | None,
) -> Decoder:
    """Reads ``weights`` (None: those in ``directory``) and allocates a cache of ``num_pages``, if
    there is memory for both.

    Raises:
        ConfigError: there is not, or a file or tensor is missing or broken.
    """
    library = _library_for(shape, device, quantization)
    # Attention of torch's operations is two to four times slower in bfloat16 on the CPU.
    kv_dtype = torch.float32 if library is None and device.type == "cpu" else TORCH_DTYPES[dtype]
    plan = memory_plan(
        shape,
        dtype=dtype,
        kv_dtype=kv_dtype,
        quantization=quantization,
        device=device,
        is_compiled=library is not None,
        kv_tokens=num_pages * PAGE_TOKENS,
        num_ids=num_ids,
    )
    plan.check_fits(device)
    cache = KvCache(
        shape.num_layers, num_pages, shape.num_kv_heads, shape.head_dim, kv_dtype, device
    )
    rotary = rotary_table(shape, context_tokens + _MOST_PADDING_ROWS).to(device)
    source: AbstractContextManager[Weights] = (
        Checkpoint(directory) if weights is None else nullcontext(weights)
    )
    with source as tensors:
        if library is not None:
            return CompiledDecoder(
                library,
                shape,
                tensors,
                dtype=TORCH_DTYPES[dtype],
                quantization=quantization,
                cache=cache,
                rotary=rotary,
                num_ids=num_ids,
            )
        layers = LlamaLayers(
            shape,
            tensors,
            dtype=TORCH_DTYPES[dtype],
            attention_dtype=kv_dtype,
            device=device,
            num_ids=num_ids,
            exact=exact,
            quantization=quantization,
        )
    masks = CausalMasks(pages_for(context_tokens) * PAGE_TOKENS, kv_dtype, device)
    return EagerDecoder(layers, cache, rotary, masks, exact=exact)


def _library_for(
    shape: LlamaShape, device: torch.device, quantization: Quantization | None
) -> Library | None:
    """The compiled decoder, where it can run such a model; where not, torch's operations do."""
    has_format = device.type == "cpu" and quantization is not Quantization.FP8
    library = find_library() if has_format else None
    return library if library is not None and library.has_heads(shape.head_dim) else None
