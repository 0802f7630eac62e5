"""The fast engine's logits are those of transformers."""

from array import array
from pathlib import Path

import pytest
import torch
from transformers import MistralConfig, PretrainedConfig, Qwen2Config, Qwen3Config

from specrouter_dist.config import Dtype, SamplingParams
from specrouter_dist.engine.interface import Extension
from tests.unit.engine.fast_models import SMALL, load, logged_logits, save, small, text

pytestmark = pytest.mark.usefixtures("decoder")

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10_000.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 128,
}
CONFIGS: dict[str, PretrainedConfig] = {
    "llama": small(),
    "one_key_head": small(num_key_value_heads=1),
    "as_many_key_heads": small(num_key_value_heads=4),
    "tied": small(tie_word_embeddings=True),
    "wide_heads": small(head_dim=32),
    "one_head": small(num_attention_heads=1, num_key_value_heads=1),
    "all_biases": small(attention_bias=True, mlp_bias=True),
    "large_eps": small(rms_norm_eps=0.3),
    "llama3": small(rope_parameters=LLAMA3),
    "long_waves": small(rope_parameters={"rope_type": "default", "rope_theta": 1e6}),
    "mistral": MistralConfig(**SMALL, sliding_window=None),
    "qwen2": Qwen2Config(**SMALL),
    "qwen3": Qwen3Config(**SMALL, head_dim=16),
    "qwen3_biases": Qwen3Config(**SMALL, head_dim=48, attention_bias=True),
}
NUM_TOKENS = 300


def fast_logits(directory: Path, **changes: object) -> torch.Tensor:
    with logged_logits() as log:
        engine = load(directory, **changes)
        slot = engine.open(SamplingParams(temperature=0.0), 1, NUM_TOKENS)
        tokens = text(SMALL["vocab_size"], NUM_TOKENS)
        for start in range(0, NUM_TOKENS, 256):
            part = tokens[start : start + 256]
            engine.extend([Extension(slot, start, part, len(part))])
        return log.of(slot, NUM_TOKENS)


def reference_logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.inference_mode():
        tokens = torch.tensor([text(SMALL["vocab_size"], NUM_TOKENS).tolist()])
        logits: torch.Tensor = model(tokens).logits[0]
        return logits


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("name", list(CONFIGS))
def test_float32_logits_are_those_of_transformers(name: str, exact: bool, tmp_path: Path) -> None:
    model = save(CONFIGS[name], tmp_path)
    expected = reference_logits(model)
    found = fast_logits(tmp_path, exact=exact)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * float(expected.std()))


@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("exact", [True, False])
def test_bfloat16_logits_are_near(name: str, exact: bool, tmp_path: Path) -> None:
    expected = reference_logits(save(CONFIGS[name], tmp_path))
    found = fast_logits(tmp_path, dtype=Dtype.BF16, exact=exact)
    assert float((found - expected).std() / expected.std()) < 0.03


def test_sharded_weights_are_read(tmp_path: Path) -> None:
    expected = reference_logits(save(CONFIGS["llama"], tmp_path, max_shard_size="50KB"))
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    found = fast_logits(tmp_path)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-3)


def test_a_padded_head_is_cut_to_the_shared_ids(tmp_path: Path) -> None:
    save(CONFIGS["tied"], tmp_path)
    whole, cut = (load(tmp_path, num_ids=num_ids) for num_ids in (None, 100))
    tokens = array("I", [3, 99, 7])
    rows = []
    for engine in (whole, cut):
        with logged_logits() as log:
            slot = engine.open(SamplingParams(temperature=0.0), 3, 10)
            engine.extend([Extension(slot, 0, tokens, 3)])
            rows.append(log.of(slot, 3))
    assert rows[1].shape == (3, 100)
    assert torch.equal(rows[0][:, :100], rows[1])


def test_a_position_sees_only_the_tokens_before_it(tmp_path: Path) -> None:
    save(CONFIGS["llama"], tmp_path)
    with logged_logits() as log:
        engine = load(tmp_path)
        slots = [engine.open(SamplingParams(temperature=0.0), 1, 200) for _ in range(2)]
        one, other = text(120, 150), text(120, 150)
        other[100] = (other[100] + 1) % 120
        engine.extend(
            [Extension(slot, 0, t, 150) for slot, t in zip(slots, (one, other), strict=True)]
        )
        same = log.of(slots[0], 150) == log.of(slots[1], 150)
    assert same[:100].all()
    assert not same[100:].all(dim=1).any()
