"""Drafters that begin as pieces of their target: embedding, head and a few layers."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from specrouter_dist.align.config import StudentConfig
from specrouter_dist.errors import ConfigError

_LAYER_OUTPUTS = ("self_attn.o_proj.weight", "mlp.down_proj.weight")
_COMPANIONS = (
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "generation_config.json",
)
_FRESH, _OLD = ".fresh", ".old"
"""Follow the name of a folder that is being replaced."""


def load_model(folder: Path) -> LlamaForCausalLM:
    """Load a Llama checkpoint in float32."""
    model: LlamaForCausalLM = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model


def cut_student(target: LlamaForCausalLM, shape: StudentConfig) -> LlamaForCausalLM:
    """Build a drafter of the target's width from some of its layers, with the MLP trimmed.

    Of each MLP the neurons with the largest product of weight norms are kept.
    """
    values = target.config.to_dict()
    values.update(
        num_hidden_layers=len(shape.from_layers), intermediate_size=shape.intermediate_size
    )
    values.pop("dtype", None)
    student = LlamaForCausalLM(LlamaConfig(**values)).float()
    with torch.no_grad():
        student.model.embed_tokens.weight.copy_(target.model.embed_tokens.weight)
        student.model.norm.weight.copy_(target.model.norm.weight)
        for layer, source in zip(student.model.layers, shape.from_layers, strict=True):
            layer.load_state_dict(
                _trim(target.model.layers[source].state_dict(), shape.intermediate_size)
            )
    return student


def _trim(layer: dict[str, Tensor], neurons: int) -> dict[str, Tensor]:
    gate, up, down = (layer[f"mlp.{name}_proj.weight"] for name in ("gate", "up", "down"))
    importance = gate.norm(dim=1) * up.norm(dim=1) * down.norm(dim=0)
    kept = importance.topk(neurons).indices.sort().values
    return layer | {
        "mlp.gate_proj.weight": gate[kept],
        "mlp.up_proj.weight": up[kept],
        "mlp.down_proj.weight": down[:, kept],
    }


def check_can_grow(start: LlamaConfig, shape: StudentConfig) -> None:
    """Whether :func:`grown_student` can make a drafter of that shape from one of ``start``'s.

    Raises:
        ConfigError: ``start`` has more layers than ``shape``, or MLPs of another size.
    """
    num_layers, wanted = start.num_hidden_layers, len(shape.from_layers)
    if num_layers > wanted or start.intermediate_size != shape.intermediate_size:
        raise ConfigError(
            f"init_from: a drafter with {num_layers} layers and MLPs of "
            f"{start.intermediate_size} cannot grow into {wanted} layers and "
            f"{shape.intermediate_size}",
            field="init_from",
        )


def grown_student(start: LlamaForCausalLM, shape: StudentConfig) -> LlamaForCausalLM:
    """Build a drafter that says what ``start`` says, with as many layers as ``shape`` has.

    The new layers stand before the last one, as copies of it whose outputs are zero: they change
    nothing until they are trained.
    """
    check_can_grow(start.config, shape)
    num_layers = len(start.model.layers)
    if num_layers == len(shape.from_layers):
        return start
    values = start.config.to_dict() | {"num_hidden_layers": len(shape.from_layers)}
    values.pop("dtype", None)
    values.pop("layer_types", None)
    student = LlamaForCausalLM(LlamaConfig(**values)).float()
    student.load_state_dict(start.state_dict(), strict=False)
    last = start.model.layers[-1].state_dict()
    zeroed = {
        name: torch.zeros_like(weight) if name in _LAYER_OUTPUTS else weight
        for name, weight in last.items()
    }
    for layer in student.model.layers[num_layers - 1 : -1]:
        layer.load_state_dict(zeroed)
    student.model.layers[-1].load_state_dict(last)
    return student


def copy_tokenizer(source: Path, folder: Path) -> None:
    """Copy the files that lie beside a model's weights."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in _COMPANIONS:
        if (source / name).exists():
            shutil.copyfile(source / name, folder / name)


def save_member(model: LlamaForCausalLM, tokenizer_from: Path, folder: Path) -> None:
    """Write a bfloat16 checkpoint with its tokenizer; ``folder`` is replaced as a whole."""
    copy = LlamaForCausalLM(model.config)
    copy.load_state_dict(model.state_dict())
    with replacing(folder) as fresh:
        copy.to(torch.bfloat16).save_pretrained(fresh)
        copy_tokenizer(tokenizer_from, fresh)


def put_back(folder: Path) -> None:
    """Undoes a :func:`replacing` that was killed after ``folder`` had gone, before the new one had
    come: there is no renaming both at once."""
    old = folder.with_name(folder.name + _OLD)
    if old.exists() and not folder.exists():
        os.rename(old, folder)


@contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """A new folder that takes the place of ``folder`` when it has been filled."""
    put_back(folder)
    fresh, old = (folder.with_name(folder.name + suffix) for suffix in (_FRESH, _OLD))
    for leftover in (fresh, old):
        shutil.rmtree(leftover, ignore_errors=True)
    fresh.mkdir(parents=True)
    yield fresh
    if folder.exists():
        os.rename(folder, old)
    os.rename(fresh, folder)
    shutil.rmtree(old, ignore_errors=True)
