"""What the fast engine needs to know of a model of the Llama family, read from its config."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from specrouter_dist.errors import ConfigError, EngineError
from specrouter_dist.pools.llama_configs import refusal, rope_of
from specrouter_dist.pools.llama_sizes import LlamaSizes, sizes_of
from specrouter_dist.pools.model_files import read_json, read_positive


@dataclass(frozen=True, slots=True)
class LlamaShape(LlamaSizes):
    """Sizes and switches of one model; everything else is the same for the whole family."""

    norm_eps: float
    max_positions: int
    rope: Mapping[str, Any]
    """``rope_parameters`` of the config: ``rope_type``, ``rope_theta`` and llama3's factors."""


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
        rope=rope_of(config),
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
