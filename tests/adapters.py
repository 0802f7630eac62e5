"""Random LoRA adapters in PEFT's format, written without PEFT."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoConfig

ALL = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def sizes(base: Path) -> dict[str, tuple[int, int]]:
    """Inputs and outputs of the projections of the model in ``base``."""
    config = AutoConfig.from_pretrained(base)
    hidden, wide = config.hidden_size, config.intermediate_size
    head_dim = getattr(config, "head_dim", None) or hidden // config.num_attention_heads
    query, key = config.num_attention_heads * head_dim, config.num_key_value_heads * head_dim
    ins = dict.fromkeys(ALL, hidden) | {"o_proj": query, "down_proj": wide}
    outs = {"q_proj": query, "k_proj": key, "v_proj": key, "o_proj": hidden}
    outs |= {"gate_proj": wide, "up_proj": wide, "down_proj": hidden}
    return {name: (ins[name], outs[name]) for name in ALL}


def path_of(layer: int, projection: str) -> str:
    """Of a projection in a model of transformers."""
    part = "self_attn" if projection in ALL[:4] else "mlp"
    return f"model.layers.{layer}.{part}.{projection}"


def write_adapter(
    directory: Path,
    base: Path,
    *,
    rank: int = 4,
    projections: Sequence[str] = ALL,
    seed: int = 0,
    spread: float = 0.3,
    **changes: Any,
) -> Path:
    """A random adapter on the model in ``base``; ``changes`` are of its configuration."""
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, Tensor] = {}
    for layer in range(AutoConfig.from_pretrained(base).num_hidden_layers):
        for projection in projections:
            inputs, outputs = sizes(base)[projection]
            name = f"base_model.model.{path_of(layer, projection)}"
            first = torch.randn(rank, inputs, generator=generator) / inputs**0.5
            second = torch.randn(outputs, rank, generator=generator)
            tensors[f"{name}.lora_A.weight"] = first
            tensors[f"{name}.lora_B.weight"] = spread * second
    directory.mkdir(parents=True, exist_ok=True)
    save_file(tensors, directory / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": 2 * rank, "bias": "none"}
    config |= {"target_modules": list(projections), **changes}
    (directory / "adapter_config.json").write_text(json.dumps(config))
    return directory
