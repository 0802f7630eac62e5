"""LoRA adapters on a drafter: trained by PEFT in place, written in its format."""

from __future__ import annotations

from pathlib import Path

import torch
from peft import LoraConfig, inject_adapter_in_model
from safetensors.torch import save_file
from torch.nn import Parameter
from transformers import LlamaForCausalLM

from specrouter_dist.align.config import LoraSettings
from specrouter_dist.align.students import replacing
from specrouter_dist.pools.adapter_files import WEIGHTS

_NAME = "default"
"""PEFT's name of an adapter that has none; part of the names of its parameters."""


def add_adapter(model: LlamaForCausalLM, settings: LoraSettings, seed: int) -> None:
    """Puts an adapter into ``model`` that changes nothing yet; it alone is trained from now on.

    Args:
        model: changed in place.
        settings: of the adapter.
        seed: of its first matrices; the second ones are zero.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        inject_adapter_in_model(_config(settings), model, adapter_name=_NAME)


def save_adapter(model: LlamaForCausalLM, settings: LoraSettings, folder: Path) -> None:
    """Writes the adapter of ``model`` in bfloat16; ``folder`` is replaced as a whole."""
    tensors = {name: matrix.detach().bfloat16() for name, matrix in _matrices(model).items()}
    with replacing(folder) as fresh:
        save_file(tensors, fresh / WEIGHTS, metadata={"format": "pt"})
        _config(settings).save_pretrained(fresh)


def _matrices(model: LlamaForCausalLM) -> dict[str, Parameter]:
    """Those of its adapter, by their names in the file."""
    return {
        f"base_model.model.{name.replace(f'.{_NAME}.', '.')}": parameter
        for name, parameter in model.named_parameters()
        if ".lora_" in name
    }


def _config(settings: LoraSettings) -> LoraConfig:
    return LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        target_modules=list(settings.projections),
        task_type="CAUSAL_LM",
    )
