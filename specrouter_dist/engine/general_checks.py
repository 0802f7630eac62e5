"""Which transformers models the general engine can run exactly, and how long their context is.

A pick must be a function of the tokens before it. State that cannot be cut back to a length
(sliding windows, recurrences) or that depends on what comes later (rescaled rotary embeddings)
breaks that, and is refused.
"""

import inspect
from typing import Any

import torch
from transformers import PretrainedConfig
from transformers.cache_utils import DynamicCache, DynamicLayer

from specrouter_dist.errors import ConfigError, EngineError

_LENGTH_DEPENDENT_ROPE = ("dynamic", "longrope")
_EXPERT_COUNTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")


def check_supported(config: PretrainedConfig) -> None:
    """Whether every layer keeps plain keys and values that can be cut to a length.

    Raises:
        EngineError: it is an encoder-decoder, or a layer keeps something else.
    """
    if config.is_encoder_decoder:
        raise EngineError(f"model_type {config.model_type!r}: encoder-decoders are not supported")
    kinds = {type(layer).__name__ for layer in DynamicCache(config=config).layers}
    unsupported = sorted(kinds - {DynamicLayer.__name__})
    if unsupported:
        raise EngineError(
            f"model_type {config.model_type!r}: layers that cannot be rolled back exactly "
            f"(sliding windows, recurrent or shared state): {', '.join(unsupported)}"
        )


def resolve_context(config: PretrainedConfig, context_tokens: int | None) -> int:
    """The longest sequence: ``context_tokens``, or what the model allows.

    Raises:
        ConfigError: the model allows less, states nothing, or changes its embeddings with length.
    """
    text_config = config.get_text_config(decoder=True)
    allowed: int | None = getattr(text_config, "max_position_embeddings", None)
    context = context_tokens or allowed
    if context is None:
        raise ConfigError(
            "context_tokens: must be given, since the model states no limit",
            field="context_tokens",
        )
    if allowed is not None and context > allowed:
        raise ConfigError(
            f"context_tokens: the model allows at most {allowed}, got {context}",
            field="context_tokens",
        )
    limit = _unscaled_limit(text_config, context)
    if context > limit:
        raise ConfigError(
            "context_tokens: the model's rotary embeddings change with the length beyond "
            f"{limit} tokens; give at most that, got {context}",
            field="context_tokens",
        )
    return context


def mixes_rows(config: PretrainedConfig) -> bool:
    """Whether the rows of one forward share matrices by content (mixtures of experts)."""
    text_config = config.get_text_config(decoder=True)
    return any((getattr(text_config, name, None) or 0) > 1 for name in _EXPERT_COUNTS)


def cache_argument(model: Any) -> str:
    """What the model's forward calls its cache: transformers renamed it in 5.24."""
    return "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"


@torch.inference_mode()
def measure_kv_bytes(model: Any) -> int:
    """Bytes of keys and values of one position, from running one.

    Raises:
        EngineError: the model keeps its state elsewhere than in the cache.
    """
    cache = DynamicCache(config=model.config)
    device = next(model.parameters()).device
    model(
        input_ids=torch.zeros((1, 1), dtype=torch.int64, device=device),
        use_cache=True,
        **{cache_argument(model): cache},
    )
    if cache.get_seq_length() != 1:
        raise EngineError(
            f"model_type {model.config.model_type!r}: does not keep its state in a cache of "
            "keys and values"
        )
    return sum(
        tensor.numel() * tensor.element_size()
        for layer in cache.layers
        for tensor in (layer.keys, layer.values)
    )


def _unscaled_limit(text_config: Any, context: int) -> int:
    """Longest context in which the rotary embeddings do not depend on the sequence's length."""
    rope = getattr(text_config, "rope_parameters", None) or {}
    limit = context
    for parameters in (rope, *(value for value in rope.values() if isinstance(value, dict))):
        if parameters.get("rope_type") in _LENGTH_DEPENDENT_ROPE:
            original = (
                parameters.get("original_max_position_embeddings")
                or getattr(text_config, "original_max_position_embeddings", None)
                or text_config.max_position_embeddings
            )
            limit = min(limit, original)
    return limit
