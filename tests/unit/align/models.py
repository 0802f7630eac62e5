"""Tiny random models and a tokenizer for the tests of ``align``."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaForCausalLM

from specrouter_dist.align.config import AlignmentConfig, TargetConfig
from specrouter_dist.align.data import Row
from specrouter_dist.align.target_training import new_target, train_tokenizer
from specrouter_dist.align.task_drafters import Aligner
from specrouter_dist.config import Dtype
from specrouter_dist.engine.fast import FastEngine
from specrouter_dist.pools.loading import load_pool, resolve_directories

TINY_TARGET = TargetConfig(layers=2, width=16, heads=2, intermediate_size=24, sequence_length=16)


def rows(name: str, count: int) -> list[Row]:
    """Rows of two tasks whose text tells them apart."""
    tasks = ("code", "math")
    return [
        Row(tasks[i % 2], f"{name} prompt {i}:", f" {name} answer {i * 7} end")
        for i in range(count)
    ]


def write_data(folder: Path) -> None:
    """Write train and dev files in the form of the real ones."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, count in (("train", 40), ("dev", 8)):
        with gzip.open(folder / f"{name}.jsonl.gz", "wt", encoding="utf-8") as file:
            file.writelines(json.dumps(vars(row)) + "\n" for row in rows(name, count))


def tokenizer_folder(folder: Path) -> Path:
    """A tokenizer trained on the rows."""
    train_tokenizer(rows("train", 40), folder)
    return folder


def tiny_target(vocabulary: int, seed: int = 0) -> LlamaForCausalLM:
    """A random target with confident, varied predictions."""
    torch.manual_seed(seed)
    model = new_target(TINY_TARGET, vocabulary)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(8)
    return model.eval()


def engine_of(model: LlamaForCausalLM, directory: Path, **settings: int) -> FastEngine:
    """The model, written to that directory, as it is served."""
    model.save_pretrained(directory)
    return served(directory, **settings)


def served(directory: Path, **settings: int) -> FastEngine:
    """The model in that directory in its engine, in float32."""
    sizes = {"context_tokens": None, "kv_tokens": 2048, "max_sessions": 8, "num_ids": None}
    given: dict[str, Any] = sizes | settings
    return FastEngine.load(directory, dtype=Dtype.FP32, device="cpu", exact=True, **given)


def aligner_of(members: dict[str, Path], out: Path, config: AlignmentConfig) -> Aligner:
    """In a pool of float32 members, where what is trained and what is served are the same."""
    roles = {"base": "drafter", "target": "target"}
    models = [
        {"name": name, "kind": "model", "role": role, "model": str(members[name]), "dtype": "fp32"}
        for name, role in roles.items()
    ]
    file = out.with_name(f"{out.name}-pool.yaml")
    file.write_text(json.dumps({"name": "of-tests", "members": models}))
    return Aligner(resolve_directories(load_pool(str(file))), "base", out, config)
