"""What the fast engine refuses, in one line that names the field, file or tensor."""

import json
from array import array
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, MistralConfig, PretrainedConfig, Qwen2Config

from specrouter_dist.config import Dtype, Quantization, SamplingParams
from specrouter_dist.engine.interface import Extension
from specrouter_dist.engine.llama_shape import read_shape
from specrouter_dist.engine.loading import (
    TORCH_DTYPES,
    MemoryPlan,
    available_bytes,
    memory_plan,
)
from specrouter_dist.errors import ConfigError, EngineError
from specrouter_dist.pools.llama_configs import refusal
from tests.unit.engine.fast_models import SMALL, load, only_eager, save, small

YARN = {"rope_type": "yarn", "rope_theta": 10_000.0, "factor": 4.0}
CPU = torch.device("cpu")

WINDOWED = {"use_sliding_window": True, "sliding_window": 64, "max_window_layers": 1}
REFUSED: list[tuple[str, PretrainedConfig]] = [
    ("model_type", GPT2Config(vocab_size=64, n_embd=32, n_layer=1, n_head=2)),
    ("hidden_act", small(hidden_act="gelu")),
    ("sliding_window", MistralConfig(**SMALL, sliding_window=64)),
    ("sliding_window", Qwen2Config(**SMALL, **WINDOWED)),
    ("layer_types", small(layer_types=["full_attention", "chunked_attention"])),
    ("rope_parameters.rope_type", small(rope_parameters=YARN)),
    ("quantization_config", small(quantization_config={"quant_method": "gptq", "bits": 4})),
]


@pytest.mark.parametrize(("field", "config"), REFUSED)
def test_a_model_it_cannot_run_is_refused_by_the_field(
    field: str, config: PretrainedConfig, tmp_path: Path
) -> None:
    config.save_pretrained(tmp_path)
    with pytest.raises(EngineError, match=field) as caught:
        load(tmp_path)
    assert "\n" not in str(caught.value)
    assert refusal(json.loads((tmp_path / "config.json").read_text())) is not None


@pytest.mark.parametrize(
    "config", [small(), Qwen2Config(**SMALL), MistralConfig(**SMALL, sliding_window=None)]
)
def test_what_it_runs_it_says_it_supports(config: PretrainedConfig, tmp_path: Path) -> None:
    save(config, tmp_path)
    assert refusal(json.loads((tmp_path / "config.json").read_text())) is None
    assert load(tmp_path).info.vocab_size == SMALL["vocab_size"]


def test_the_older_spelling_of_rope_scaling_is_refused_too() -> None:
    old = {"model_type": "llama", "rope_scaling": {"type": "linear", "factor": 2.0}}
    assert refusal(old) is not None


def refusal_of(directory: Path, **changes: Any) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load(directory, **changes)
    assert "\n" not in str(caught.value)
    return caught.value


def test_missing_weights_are_named(tmp_path: Path) -> None:
    save(small(), tmp_path)
    (tmp_path / "model.safetensors").unlink()
    assert "model.safetensors" in str(refusal_of(tmp_path))


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    save(small(), tmp_path, max_shard_size="50KB")
    shard = sorted(tmp_path.glob("model-*.safetensors"))[1]
    shard.unlink()
    assert shard.name in str(refusal_of(tmp_path))


def test_a_broken_index_is_named(tmp_path: Path) -> None:
    save(small(), tmp_path, max_shard_size="50KB")
    (tmp_path / "model.safetensors.index.json").write_text("{")
    assert "model.safetensors.index.json" in str(refusal_of(tmp_path))


@pytest.mark.parametrize("kept", [0, 5, 200, -1])
def test_a_truncated_file_is_named(kept: int, tmp_path: Path) -> None:
    save(small(), tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    assert "model.safetensors" in str(refusal_of(tmp_path))


@pytest.mark.parametrize(
    "name",
    [
        "model.embed_tokens.weight",
        "model.layers.1.self_attn.k_proj.weight",
        "model.layers.0.mlp.down_proj.weight",
        "model.norm.weight",
        "lm_head.weight",
    ],
)
def test_a_missing_tensor_is_named(name: str, tmp_path: Path) -> None:
    save(small(), tmp_path)
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    del tensors[name]
    save_file(tensors, path)
    assert name in str(refusal_of(tmp_path))


def test_a_tensor_of_another_shape_is_named(tmp_path: Path) -> None:
    save(small(), tmp_path)
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    tensors["model.norm.weight"] = tensors["model.norm.weight"][:-1].clone()
    save_file(tensors, path)
    message = str(refusal_of(tmp_path))
    assert "model.norm.weight" in message
    assert "(63,)" in message
    assert "(64,)" in message


def test_a_directory_without_config_is_refused(tmp_path: Path) -> None:
    assert "config.json" in str(refusal_of(tmp_path))


def test_an_id_outside_the_vocabulary_and_a_doubled_session_are_refused(tmp_path: Path) -> None:
    save(small(), tmp_path)
    engine = load(tmp_path, num_ids=100)
    slot = engine.open(SamplingParams(), 1, 10)
    with pytest.raises(EngineError, match="tokens: ids must be below 100, got 100"):
        engine.extend([Extension(slot, 0, array("I", [3, 100]), 1)])
    once = Extension(slot, 0, array("I", [3]), 1)
    with pytest.raises(EngineError, match="slot: a batch extends a session once"):
        engine.extend([once, once])
    engine.close(slot)
    with pytest.raises(EngineError, match=f"slot: {slot} is not open"):
        engine.extend([once])


def test_more_kv_cache_than_memory_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    small().save_pretrained(tmp_path)
    error = refusal_of(tmp_path, kv_tokens=1 << 40)
    assert error.field == "kv_tokens"
    assert f"{(1 << 40) * 2 * 2 * 2 * 16 * 4:,}" in str(error)


@pytest.mark.parametrize("dtype", list(Dtype))
def test_the_plan_is_what_loading_takes(dtype: Dtype, tmp_path: Path) -> None:
    for tied in (False, True):
        directory = tmp_path / str(tied)
        # Whole panels: the compiled decoder fills others up.
        save(small(intermediate_size=96, vocab_size=128, tie_word_embeddings=tied), directory)
        info = load(directory, dtype=dtype, kv_tokens=640).info
        plan = memory_plan(
            read_shape(directory),
            dtype=dtype,
            kv_dtype=TORCH_DTYPES[dtype],
            quantization=None,
            device=CPU,
            is_compiled=True,
            kv_tokens=640,
            num_ids=None,
        )
        assert plan.kv_bytes == info.kv_bytes
        norms = 5 * SMALL["hidden_size"] * TORCH_DTYPES[dtype].itemsize
        assert plan.weight_bytes - norms == info.weight_bytes


def test_the_cache_is_in_the_weights_dtype_but_for_torch_on_the_cpu(tmp_path: Path) -> None:
    save(small(), tmp_path)
    sizes = {dtype: load(tmp_path, dtype=dtype).info.kv_bytes for dtype in Dtype}
    assert sizes[Dtype.BF16] * 2 == sizes[Dtype.FP32]
    with only_eager():
        assert load(tmp_path, dtype=Dtype.BF16).info.kv_bytes == sizes[Dtype.FP32]


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(
    ("quantization", "is_compiled", "bytes_per_weight"),
    [(Quantization.INT8, True, 1), (Quantization.INT8, False, 3), (Quantization.FP8, False, 1)],
)
def test_the_plan_of_8_bits_is_what_loading_takes(
    quantization: Quantization,
    is_compiled: bool,
    bytes_per_weight: int,
    tied: bool,
    tmp_path: Path,
) -> None:
    save(small(hidden_size=64, intermediate_size=96, tie_word_embeddings=tied), tmp_path)
    shape = read_shape(tmp_path)
    with nullcontext() if is_compiled else only_eager():
        info = load(tmp_path, exact=False, quantization=quantization, num_ids=110).info
    plan = memory_plan(
        shape,
        dtype=Dtype.FP32,
        kv_dtype=torch.float32,
        quantization=quantization,
        device=CPU,
        is_compiled=is_compiled,
        kv_tokens=640,
        num_ids=110,
    )
    norms = 5 * 64 * bytes_per_weight
    # The rows that pad the head to 112 are not in the plan, and scales of torch's int8 are in bf16.
    difference = plan.weight_bytes - norms - info.weight_bytes
    assert abs(difference) < 0.02 * info.weight_bytes


def test_a_weight_on_a_gpu_takes_one_byte_and_the_embedding_two(tmp_path: Path) -> None:
    save(small(hidden_size=64, intermediate_size=96), tmp_path)
    shape = read_shape(tmp_path)
    plans = {
        quantization: memory_plan(
            shape,
            dtype=Dtype.BF16,
            kv_dtype=torch.bfloat16,
            quantization=quantization,
            device=torch.device("cuda"),
            is_compiled=False,
            kv_tokens=640,
            num_ids=None,
        ).weight_bytes
        for quantization in Quantization
    }
    embedding, outputs = 120 * 64, 2 * (64 + 2 * 32 + 64 + 2 * 96 + 64) + 120
    expected = shape.num_parameters + embedding + 4 * outputs
    assert set(plans.values()) == {expected}


@pytest.mark.parametrize("quantization", Quantization)
def test_8_bits_are_not_exact(quantization: Quantization, tmp_path: Path) -> None:
    save(small(), tmp_path)
    expected = f"^quantization: must be none in exact mode.*, got '{quantization.value}'$"
    with pytest.raises(EngineError, match=expected):
        load(tmp_path, exact=True, quantization=quantization)


def test_a_device_without_the_kernel_is_refused_before_anything_is_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse(*_: Any, **__: Any) -> NoReturn:
        raise RuntimeError("only supported with compute capability >= 9.0\nException raised from")

    monkeypatch.setattr(torch, "_scaled_mm", refuse)
    with pytest.raises(EngineError) as caught:
        load(tmp_path / "none", exact=False, quantization=Quantization.FP8)
    assert str(caught.value) == (
        "quantization: 'fp8' does not run on cpu (only supported with compute capability >= 9.0); "
        "accepted there: int8"
    )


def test_memory_is_compared_with_what_is_free() -> None:
    free = available_bytes(CPU)
    assert free > 1 << 20
    MemoryPlan(weight_bytes=1000, kv_bytes=1000).check_fits(CPU)
    with pytest.raises(ConfigError):
        MemoryPlan(weight_bytes=1 << 10, kv_bytes=free * 2).check_fits(CPU)
