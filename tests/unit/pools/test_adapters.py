"""An adapter that cannot be served is refused before anything is loaded, by file and field."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from specrouter_dist.config import Dtype
from specrouter_dist.errors import ConfigError
from specrouter_dist.pools.adapter_files import read_adapter
from specrouter_dist.pools.checks import check_pool
from specrouter_dist.pools.loading import Pool, load_pool, model_names, portable_members
from tests.adapters import ALL, write_adapter

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
Q = "base_model.model.model.layers.0.self_attn.q_proj"


@pytest.fixture
def pool(tiny_copy: Path) -> Pool:
    """A copy of the embedded pool with an adapter on ``small``."""
    write_adapter(tiny_copy.parent / "own", tiny_copy.parent / "tiny" / "small", rank=8)
    with tiny_copy.open("a") as file:
        file.write("  - {name: small-own, kind: lora, of: small, adapter: own}\n")
    return load_pool(str(tiny_copy))


def change_tensors(pool: Pool, **changes: Any) -> None:
    """``None`` removes one; ``q_A`` stands for that of the first query projection."""
    path = pool.file.parent / "own" / WEIGHTS
    tensors = load_file(path)
    for name, tensor in changes.items():
        full = f"{Q}.lora_{name[-1]}.weight" if name in ("q_A", "q_B") else name
        tensors.pop(full, None)
        if tensor is not None:
            tensors[full] = tensor
    save_file(tensors, path)


def change_config(pool: Pool, **fields: Any) -> None:
    path = pool.file.parent / "own" / CONFIG
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def test_a_pool_with_an_adapter_can_run_and_its_memory_is_known(pool: Pool) -> None:
    without = check_pool(load_pool("tiny"))
    report = check_pool(pool)
    own, small = report.member("small-own"), report.member("small")
    # Query, key, value and output 288 to 288; gate and up 288 to 384, and down.
    assert own.num_parameters == 8 * (4 * (288 + 288) + 3 * (288 + 384))
    held = 24 * (288 + 864) + 8 * (288 + 288) + 16 * (288 + 768) + 8 * (384 + 288)
    assert own.weight_bytes == 4 * held
    assert (own.kv_bytes, own.context_tokens) == (0, small.context_tokens)
    assert report.required_bytes == without.required_bytes + own.weight_bytes
    assert check_pool(load_pool(str(pool.file), dtype=Dtype.FP32)).member("small-own") == own
    assert model_names(pool) == ["small", "medium", "small-own", "target"]


def test_an_adapter_on_a_gpu_takes_none_of_this_machines_memory(pool: Pool) -> None:
    text = pool.file.read_text()
    text = text.replace("tiny/small}", "tiny/small, device: cuda, num_gpus: 1}")
    pool.file.write_text(text)
    report = check_pool(load_pool(str(pool.file)))
    others = [report.member(name) for name in ("medium", "target")]
    assert report.required_bytes == sum(m.weight_bytes + m.kv_bytes for m in others)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"r": 0}, "r: an integer >= 1 is needed, got 0"),
        ({"r": 4}, r"tensor '.*lora_A.weight' is F32 \[8, 384\]; with r=4 the base needs \[4, 384"),
        ({"lora_alpha": 0}, "lora_alpha: a number above 0 is needed, got 0"),
        ({"lora_alpha": "8"}, "lora_alpha: a number above 0 is needed, got '8'"),
        ({"peft_type": "IA3"}, "peft_type: accepted: 'LORA'; got 'IA3'"),
        ({"use_dora": True}, "use_dora: accepted: False; got True"),
        ({"bias": "all"}, "bias: accepted: 'none'; got 'all'"),
        ({"rank_pattern": {"q_proj": 2}}, "rank_pattern: accepted: {}, None; got"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights: accepted: True, .*got 'pissa'"),
        ({"modules_to_save": ["lm_head"]}, r"modules_to_save: .*got \['lm_head'\]"),
        (
            {"target_modules": ["q_proj", "embed_tokens", "c_attn"]},
            "target_modules: accepted: q_proj, .*; got c_attn, embed_tokens$",
        ),
    ],
)
def test_a_configuration_is_refused_by_field(
    pool: Pool, fields: dict[str, Any], expected: str
) -> None:
    change_config(pool, **fields)
    with pytest.raises(ConfigError, match=f"^member 'small-own': adapter: .*{expected}"):
        check_pool(pool)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"q_A": torch.zeros(8, 64)}, r"is F32 \[8, 64\]; with r=8 the base needs \[8, 288\]"),
        ({"q_B": torch.zeros(96, 8)}, r"is F32 \[96, 8\]; with r=8 the base needs \[288, 8\]"),
        ({"q_B": torch.zeros(288, 8, dtype=torch.int8)}, r"is I8 .* in one of F32, F16, BF16"),
        ({"q_A": None}, "without its other half"),
        ({"q_B": None}, "without its other half"),
        (
            {Q.replace("layers.0", "layers.1") + ".lora_A.weight": torch.zeros(8, 288)},
            "layers.1.* of layers 0 to 0 of the base",
        ),
        ({Q + ".lora_magnitude_vector": torch.zeros(288)}, "magnitude.*adapted can be q_proj"),
        ({"base_model.model.lm_head.lora_A.weight": torch.zeros(8, 288)}, "lm_head.*adapted can"),
    ],
)
def test_tensors_that_do_not_fit_are_refused_by_name(
    pool: Pool, changes: dict[str, Any], expected: str
) -> None:
    change_tensors(pool, **changes)
    with pytest.raises(
        ConfigError, match=rf"^member 'small-own': adapter: .*{WEIGHTS}: .*{expected}"
    ):
        check_pool(pool)


def test_an_adapter_of_another_base_is_refused(pool: Pool) -> None:
    other = pool.directories["target"]
    write_adapter(pool.file.parent / "own", other, projections=("gate_proj",))
    with pytest.raises(ConfigError, match=r"gate_proj.* is F32 \[768, 4\]; .* needs \[384, 4\]"):
        check_pool(pool)


@pytest.mark.parametrize("missing", [WEIGHTS, CONFIG, None])
def test_missing_files_are_refused(pool: Pool, missing: str | None) -> None:
    own = pool.file.parent / "own"
    if missing is None:
        shutil.rmtree(own)
    else:
        (own / missing).unlink()
    with pytest.raises(ConfigError, match=rf"own: no {missing or CONFIG}; an adapter is a direc"):
        check_pool(pool)


def test_damaged_files_are_refused(pool: Pool) -> None:
    own = pool.file.parent / "own"
    content = (own / WEIGHTS).read_bytes()
    for damaged in (content[:-1], content[:7], b""):
        (own / WEIGHTS).write_bytes(damaged)
        with pytest.raises(ConfigError, match=r"member 'small-own': adapter: .*(truncated|size)"):
            check_pool(pool)
    save_file({}, own / WEIGHTS)
    with pytest.raises(ConfigError, match="holds no tensors"):
        check_pool(pool)
    (own / CONFIG).write_text("{")
    with pytest.raises(ConfigError, match="no valid JSON"):
        check_pool(pool)


def test_scales_are_pefts(pool: Pool) -> None:
    own, base = pool.file.parent / "own", pool.directories["small"]
    assert read_adapter(own, base).scale == 2.0
    change_config(pool, use_rslora=True)
    assert read_adapter(own, base).scale == pytest.approx(16 / 8**0.5)
    assert set(read_adapter(own, base).tensors[0]) == set(ALL)


def test_its_files_are_part_of_what_a_pool_is(pool: Pool) -> None:
    first = load_pool(str(pool.file)).config_hash
    (pool.file.parent / "own" / "README.md").write_text("not part of it")
    assert load_pool(str(pool.file)).config_hash == first
    change_config(pool, use_rslora=True)
    assert load_pool(str(pool.file)).config_hash != first
    (written,) = (m for m in portable_members(pool) if m["name"] == "small-own")
    assert written["adapter"] == str(pool.file.parent / "own")
