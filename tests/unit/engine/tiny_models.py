"""Tiny random models of the families that both engines run, and how tests drive an engine."""

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    MistralConfig,
    PretrainedConfig,
    Qwen2Config,
    Qwen3Config,
)

from specrouter_dist.config import SamplingParams
from specrouter_dist.engine.interface import Engine, Extension, Picks

VOCAB, CONTEXT = 96, 320
GREEDY = SamplingParams(temperature=0.0)
WARM = SamplingParams(temperature=0.8, seed=2**63 + 17)
PROMPT = array("I", [5, 17, 80, 3, 3, 41, 66])
LONG_PROMPT = array("I", [(5 * i * i + i) % VOCAB for i in range(203)])

SIZES: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": CONTEXT,
    "initializer_range": 0.25,
}
CONFIGS: dict[str, PretrainedConfig] = {
    "llama3_rope_gqa": LlamaConfig(
        **SIZES,
        num_key_value_heads=2,
        tie_word_embeddings=False,
        rope_parameters={
            "rope_type": "llama3",
            "rope_theta": 500_000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        },
    ),
    "qwen3_qk_norm_tied": Qwen3Config(
        **SIZES, num_key_value_heads=2, head_dim=16, tie_word_embeddings=True
    ),
    "qwen2_bias": Qwen2Config(**SIZES, num_key_value_heads=4, tie_word_embeddings=False),
    "mistral": MistralConfig(
        **SIZES, num_key_value_heads=1, tie_word_embeddings=True, sliding_window=None
    ),
}


Load = Callable[..., Engine]


@dataclass(frozen=True)
class TinyModel:
    directory: Path
    reference: Any
    """The transformers model in float32."""

    def logits(self, tokens: Sequence[int]) -> torch.Tensor:
        """Float64 ``[len(tokens), VOCAB]`` in one forward without a cache."""
        with torch.inference_mode():
            return self.reference(torch.tensor([list(tokens)])).logits[0].double()


def save_model(name: str, tmp_path_factory: pytest.TempPathFactory) -> TinyModel:
    directory = tmp_path_factory.mktemp(name)
    torch.manual_seed(3)
    reference = AutoModelForCausalLM.from_config(CONFIGS[name], dtype=torch.float32)
    for name, parameter in reference.named_parameters():
        if name.endswith("bias") or "norm" in name:
            torch.nn.init.normal_(parameter, mean=float("norm" in name), std=0.2)
    reference.save_pretrained(directory)
    return TinyModel(directory, reference.eval())


def feed(
    engine: Engine, slot: int, start: int, tokens: Sequence[int], picks: int, drafts: int = 0
) -> Picks:
    return engine.extend([Extension(slot, start, array("I", tokens), picks, drafts)])[0]


def generate(
    engine: Engine, sampling: SamplingParams, prompt: Sequence[int], num: int
) -> list[int]:
    """One token at a time."""
    slot = engine.open(sampling, len(prompt), len(prompt) + num)
    tokens = list(feed(engine, slot, 0, prompt, 1).tokens)
    while len(tokens) < num:
        tokens += feed(engine, slot, len(prompt) + len(tokens) - 1, tokens[-1:], 1).tokens
    engine.close(slot)
    return tokens
