"""What the fast engine reads of a config, against what transformers makes of it."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig

from specrouter_dist.engine.llama_shape import read_shape
from specrouter_dist.errors import ConfigError

SIZES: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 128,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 512,
    "tie_word_embeddings": False,
}
LLAMA3 = {
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 128,
}


@pytest.mark.parametrize(
    "changed",
    [
        pytest.param({}, id="nothing said of rotary embeddings"),
        pytest.param({"rope_scaling": None, "rope_theta": 5e5}, id="before transformers 5"),
        pytest.param(
            {"rope_theta": 5e5, "rope_scaling": {"rope_type": "llama3", **LLAMA3}}, id="llama 3"
        ),
        pytest.param({"rope_scaling": {"type": "llama3", **LLAMA3}}, id="an old name"),
        pytest.param(
            {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}, id="transformers 5"
        ),
        pytest.param(
            {"model_type": "mistral", "sliding_window": None, "head_dim": 32}, id="mistral"
        ),
        pytest.param(
            {"model_type": "qwen2", "use_sliding_window": False, "sliding_window": 256}, id="qwen2"
        ),
        pytest.param({"model_type": "qwen3", "head_dim": 32, "attention_bias": False}, id="qwen3"),
    ],
)
def test_it_reads_what_transformers_does(changed: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(SIZES | changed))
    shape, expected = read_shape(tmp_path), AutoConfig.from_pretrained(tmp_path).to_dict()
    assert shape.rope == {"rope_theta": 10000.0, **expected["rope_parameters"]}
    assert shape.norm_eps == expected["rms_norm_eps"]
    assert shape.max_positions == expected["max_position_embeddings"]
    assert shape.num_kv_heads == expected["num_key_value_heads"]
    assert shape.head_dim == expected.get("head_dim", 16)


@pytest.mark.parametrize("field", ["rms_norm_eps", "max_position_embeddings", "hidden_size"])
@pytest.mark.parametrize("value", [None, 0, "many"])
def test_a_field_that_is_missing_or_wrong_is_named(
    field: str, value: object, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(SIZES | {field: value}))
    with pytest.raises(ConfigError, match=f"config.json: {field}"):
        read_shape(tmp_path)
