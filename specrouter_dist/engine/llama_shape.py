"""What the fast engine needs to know of a model of the Llama family, read from its config."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from specrouter_dist.errors import ConfigError, EngineError
from specrouter_dist.pools.llama_sizes import LlamaSizes, sizes_of
from specrouter_dist.pools.model_files import read_json, read_positive

FAMILY = ("llama", "mistral", "qwen2", "qwen3")
"""Values of ``model_type`` that the fast engine runs; SmolLM and TinyLlama say ``llama``."""

_ROPE_TYPES = ("default", "llama3")
_ROPE_THETA = 10000.0
"""Of configs that do not say it; transformers has the same for the whole family."""
_LLAMA3_FIELDS = (
    "factor",
    "low_freq_factor",
    "high_freq_factor",
    "original_max_position_embeddings",
)


@dataclass(frozen=True, slots=True)
class LlamaShape(LlamaSizes):
    """Sizes and switches of one model; everything else is the same for the whole family."""

    norm_eps: float
    max_positions: int
    rope: Mapping[str, Any]
    """``rope_parameters`` of the config: ``rope_type``, ``rope_theta`` and llama3's factors."""


def refusal(config: Mapping[str, Any]) -> str | None:
    """Why the fast engine cannot run a model, naming the field, or None if it can.

    Args:
        config: the contents of ``config.json``.
    """
    kind = config.get("model_type")
    if kind not in FAMILY:
        return f"model_type: the fast engine runs {', '.join(FAMILY)}, got {kind!r}"
    if config.get("hidden_act", "silu") != "silu":
        return f"hidden_act: the fast engine runs 'silu', got {config['hidden_act']!r}"
    windowed = kind in ("llama", "mistral") or config.get("use_sliding_window", False)
    if windowed and config.get("sliding_window") is not None:
        return f"sliding_window: must be null, got {config['sliding_window']!r}"
    layer_types = set(config.get("layer_types") or ()) - {"full_attention"}
    if layer_types:
        return f"layer_types: must all be 'full_attention', got {sorted(layer_types)}"
    if config.get("quantization_config") is not None:
        return "quantization_config: quantized weights are not supported"
    return _rope_refusal(config)


def _rope_refusal(config: Mapping[str, Any]) -> str | None:
    rope = _rope_of(config)
    kind = rope["rope_type"]
    if kind not in _ROPE_TYPES:
        return f"rope_parameters.rope_type: the fast engine runs {_ROPE_TYPES}, got {kind!r}"
    if rope.get("partial_rotary_factor", config.get("partial_rotary_factor", 1.0)) != 1.0:
        return "rope_parameters.partial_rotary_factor: must be 1.0"
    if kind == "llama3":
        missing = [name for name in _LLAMA3_FIELDS if name not in rope]
        if missing:
            return f"rope_parameters: llama3 scaling needs {', '.join(missing)}"
    return None


def _rope_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """As transformers 5 writes it, of a config of any age."""
    given = config.get("rope_parameters") or config.get("rope_scaling") or {}
    kind = given.get("rope_type", given.get("type", "default"))
    return {"rope_theta": config.get("rope_theta") or _ROPE_THETA, **given, "rope_type": kind}


def read_shape(directory: Path) -> LlamaShape:
    """Reads ``config.json`` of a model directory.

    Not through transformers, which takes seconds to import what a config class refers to.

    Raises:
        ConfigError: there is no readable config, or it lacks a field.
        EngineError: the fast engine does not run such a model; the message names the field.
    """
    path = directory / "config.json"
    config = read_json(path, "model")
    refused = refusal(config)
    if refused is not None:
        raise EngineError(f"{path}: {refused}")
    norm_eps = config.get("rms_norm_eps")
    if not isinstance(norm_eps, float | int) or not norm_eps > 0:
        text = f"{path}: rms_norm_eps: must be a number > 0, got {norm_eps!r}"
        raise ConfigError(text, field="rms_norm_eps")
    return LlamaShape(
        **asdict(sizes_of(config, path)),
        norm_eps=norm_eps,
        max_positions=read_positive(config, "max_position_embeddings", path),
        rope=_rope_of(config),
    )


def paired_head(shape: LlamaShape) -> Tensor:
    """Order of a head's elements in which the two of each rotary pair are neighbours."""
    return torch.arange(shape.head_dim).view(2, -1).t().reshape(-1)


def paired_order(shape: LlamaShape) -> Tensor:
    """The same for all outputs of the fused queries, keys and values; values keep their order."""
    heads = torch.arange(shape.num_heads + shape.num_kv_heads)[:, None] * shape.head_dim
    rotated = (heads + paired_head(shape)).reshape(-1)
    return torch.cat([rotated, torch.arange(len(rotated), len(rotated) + shape.kv_size // 2)])


def rotary_table(shape: LlamaShape, num_positions: int) -> Tensor:
    """``cos + i sin`` of every position and frequency.

    The arithmetic is float32, as in transformers, whose roundings the models were trained with.

    Returns:
        complex64 ``[num_positions, 1, head_dim / 2]``.
    """
    exponents = torch.arange(0, shape.head_dim, 2, dtype=torch.float32) / shape.head_dim
    frequencies = 1.0 / (shape.rope["rope_theta"] ** exponents)
    if shape.rope.get("rope_type", "default") == "llama3":
        frequencies = _llama3_frequencies(frequencies, shape.rope)
    angles = torch.arange(num_positions, dtype=torch.float32)[:, None] * frequencies
    return torch.complex(angles.cos(), angles.sin())[:, None]


def _llama3_frequencies(frequencies: Tensor, rope: Mapping[str, Any]) -> Tensor:
    """Llama 3's rescaling: long waves slowed by ``factor``, short ones kept, a ramp between."""
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    waves = 2 * torch.pi / frequencies
    turns = rope["original_max_position_embeddings"] / waves
    slowed = frequencies / rope["factor"]
    ramp = (turns - low) / (high - low)
    mixed = (1 - ramp) * slowed + ramp * frequencies
    return torch.where(turns < low, slowed, torch.where(turns > high, frequencies, mixed))
