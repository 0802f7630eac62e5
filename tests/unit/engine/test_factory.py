from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, PretrainedConfig

from specrouter_dist.config import Dtype, ModelMember
from specrouter_dist.engine.factory import load_engine
from specrouter_dist.engine.fast import FastEngine
from specrouter_dist.engine.general import GeneralEngine
from specrouter_dist.errors import ConfigError, EngineError

CONFIGS: dict[str, PretrainedConfig] = {
    "llama": LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=128,
    ),
    "gpt2": GPT2Config(vocab_size=64, n_embd=32, n_layer=1, n_head=2, n_positions=128),
}


def save(name: str, directory: Path) -> Path:
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(CONFIGS[name]).save_pretrained(directory)
    return directory


def member(engine: str) -> ModelMember:
    fields: dict[str, Any] = {"engine": engine, "dtype": Dtype.FP32, "max_sessions": 3}
    return ModelMember(name="m", role="target", model="m", kv_tokens=256, **fields)


@pytest.mark.parametrize(
    ("asked", "model", "expected"),
    [
        ("auto", "llama", FastEngine),
        ("auto", "gpt2", GeneralEngine),
        ("fast", "llama", FastEngine),
        ("general", "llama", GeneralEngine),
        ("general", "gpt2", GeneralEngine),
    ],
)
def test_the_engine_follows_the_member_and_the_architecture(
    asked: str, model: str, expected: type, tmp_path: Path
) -> None:
    engine = load_engine(member(asked), save(model, tmp_path), num_ids=60, exact=True)
    assert type(engine) is expected
    info = engine.info
    assert (info.vocab_size, info.context_tokens, info.max_sessions) == (60, 128, 3)


def test_the_fast_engine_is_not_replaced_when_it_was_asked_for(tmp_path: Path) -> None:
    with pytest.raises(EngineError):
        load_engine(member("fast"), save("gpt2", tmp_path), num_ids=None, exact=True)


@pytest.mark.parametrize("content", [None, "{", "[]"])
def test_a_directory_without_a_config_is_refused(content: str | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(ConfigError, match=r"config\.json") as caught:
        load_engine(member("auto"), tmp_path, num_ids=None, exact=True)
    assert caught.value.field == "model"
