"""Pool files: what is wrong is said in one line, with the field and what would be right."""

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from specrouter_dist.config import Dtype, ModelMember, Quantization
from specrouter_dist.errors import ConfigError, InputError, NotFoundError
from specrouter_dist.pools.loading import (
    available_pools,
    load_pool,
    parse_chain,
    portable_members,
    resolve_directories,
)

TARGET = "{name: t, kind: model, role: target, model: tiny/target}"


def pool_file(tmp_path: Path, content: str | bytes) -> str:
    file = tmp_path / "pool.yaml"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(file)


@pytest.mark.parametrize("name", available_pools())
def test_every_pool_that_comes_along_is_valid_and_starts_with_a_lookup(name: str) -> None:
    pool = load_pool(name)
    assert pool.config.name == name
    # What repeats itself in a synthetic text is chance.
    assert (pool.config.members[0].kind == "lookup") == (pool.config.synthetic is None)
    assert pool.config.target.role == "target"


def test_the_embedded_pools_are_the_promised_ones() -> None:
    assert available_pools() == [
        "llama2",
        "qwen3",
        "qwen3-h100-l4",
        "synthetic-llama2",
        "synthetic-llama2-h200-l4",
        "synthetic-mini",
        "tiny",
        "tiny-tasks",
    ]
    assert [m.name for m in load_pool("tiny").config.members] == [
        "lookup",
        "small",
        "medium",
        "target",
    ]
    assert [m.name for m in load_pool("qwen3").config.members] == [
        "lookup",
        "qwen3-0.6b",
        "qwen3-1.7b",
        "qwen3-8b",
        "qwen3-32b",
    ]


def test_model_directories_are_relative_to_the_pool_file(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    file = pool_file(
        tmp_path, "name: p\nmembers: [{name: t, kind: model, role: target, model: sub}]"
    )
    assert load_pool(file).directories == {"t": tmp_path / "sub"}


def test_loading_fetches_nothing() -> None:
    assert load_pool("qwen3").directories == {}


def test_a_dtype_replaces_that_of_every_member() -> None:
    members = load_pool("tiny", dtype=Dtype.FP32).config.members
    assert {m.dtype for m in members if isinstance(m, ModelMember)} == {Dtype.FP32}


MODEL = TARGET[:-1]
SKIP = "name: s, kind: layer_skip, of: t, mask"
KINDS = "'model' or 'lookup' or 'quantised' or 'layer_skip' or 'lora'"
DRAFT = "{name: d, kind: model, role: drafter, model: tiny/small}"
LORA = "kind: lora, adapter: x, name"
WRONG_FILES = [
    ("", "must be a mapping of fields, got NoneType"),
    ("- a", "must be a mapping of fields, got list"),
    ("name: [", "line 1, column 8: no valid YAML"),
    (b"name: \xff", "not UTF-8 at byte 6"),
    ("name: p", "members: missing"),
    (f"name: p\nmembers: [{TARGET}]\nname: q", "line 3, column 1: .*'name' stands twice"),
    ("name: P\nmembers: []", "name: string should match pattern .*got 'P'"),
    (
        f"name: p\nmember: 1\nmembers: [{TARGET}]",
        r"member: unknown field \(did you mean 'members'\?\); accepted: name, description, tasks, "
        "exact, synthetic, members$",
    ),
    (
        f"name: p\nmembers: [{MODEL}, devise: cpu}}]",
        r"members\[0\]\.devise: unknown field \(did you mean 'device'\?\); accepted: kind, name",
    ),
    ("name: p\nmembers: [{name: t}]", rf"members\[0\]\.kind: must be {KINDS}, missing"),
    (
        "name: p\nmembers: [{name: t, kind: modle}]",
        rf"members\[0\]\.kind: must be {KINDS}, got 'modle'",
    ),
    (
        f"name: p\nmembers: [{MODEL}, dtype: fp16}}]",
        r"members\[0\]\.dtype: input should be 'fp32' or 'bf16', got 'fp16'$",
    ),
    (
        f"name: p\nmembers: [{MODEL}, kv_tokens: -1, max_sessions: 0}}]",
        r"members\[0\]\.kv_tokens: input should be greater than or equal to 64, got -1 "
        r"\(and 1 more\)$",
    ),
    (
        f"name: p\nmembers: [{MODEL}, num_cpus: .nan}}]",
        r"members\[0\]\.num_cpus: input should be a finite number, got nan",
    ),
    (
        f"name: p\nmembers: [{MODEL}, num_gpus: 1}}]",
        r"members\[0\]: member 't': device 'cuda' goes with num_gpus > 0",
    ),
    (
        f"name: p\nmembers: [{TARGET}, {TARGET.replace('name: t', 'name: u')}]",
        r"members: exactly one has role 'target', got \['t', 'u'\]",
    ),
    (
        "name: p\nmembers: [{name: d, kind: model, role: drafter, model: m}]",
        "members: exactly one has role 'target', got none",
    ),
    (
        f"name: p\nmembers: [{TARGET}, {{name: t, kind: lookup}}]",
        r"members: names must differ, these occur twice: \['t'\]",
    ),
    (
        f"name: p\nmembers: [{TARGET}, {{kind: lookup, min_match_tokens: 9}}]",
        r"members\[1\]: member 'lookup': min_match_tokens must not be above max_match_tokens",
    ),
    (
        f"name: p\nmembers: [{TARGET}, {{name: q, kind: quantised, of: u}}]",
        r"member 'q': of: no member 'u' of kind 'model'; accepted: t$",
    ),
    (
        f"name: p\nmembers: [{TARGET}, {DRAFT.replace('}', ', quantization: int8}')}, "
        "{name: q, kind: quantised, of: d}]",
        r"member 'q': of: a copy in 8 bits is made of a member without quantization, got 'd' with "
        "quantization='int8'$",
    ),
    (
        f"name: p\nmembers: [{TARGET}, {DRAFT.replace('}', ', quantization: fp8}')}]",
        r"member 'd': quantization: 'fp8' is for GPUs, .*; accepted on the CPU: 'int8'$",
    ),
    (
        f"name: p\nmembers: [{TARGET}, {{name: q, kind: quantised, of: t, quantization: fp8}}]",
        r"member 'q': quantization: 'fp8' is for GPUs, .*; accepted on the CPU: 'int8'$",
    ),
    (
        f"name: p\nmembers: [{TARGET}, {{name: q, kind: quantised, of: t, quantization: fp4}}]",
        r"members\[1\]\.quantization: input should be 'int8' or 'fp8', got 'fp4'$",
    ),
    (
        f"name: p\nmembers: [{MODEL}, quantization: fp8}}]",
        r"member 't': quantization is for members with role 'drafter', got 'fp8' with "
        "role='target'$",
    ),
    (
        f"name: p\nmembers: [{TARGET}, {{{SKIP}: []}}]",
        r"members\[1\]\.mask: tuple should have at least 1 item",
    ),
    (
        f"name: p\nmembers: [{TARGET}, {{{SKIP}: [1.mlp, 2.norm]}}]",
        r"members\[1\]\.mask\[1\]: string should match pattern .*got '2.norm'",
    ),
    (
        f"name: p\nmembers: [{TARGET}, {{{SKIP}: [1.mlp, 1.mlp]}}]",
        r"members\[1\]: member 's': mask: named twice: 1.mlp",
    ),
    (
        f"name: p\nmembers: [{TARGET}, {{name: s, kind: layer_skip, of: d, mask: [1.mlp]}}]",
        r"member 's': of: must be the target 't', which must run in the fast engine, got 'd'",
    ),
    (
        "name: p\nmembers: [{name: d, kind: model, role: drafter, model: m}, "
        "{name: s, kind: layer_skip, of: t, mask: [1.mlp]}]",
        "members: exactly one has role 'target', got none",
    ),
    (
        f"name: p\nmembers: [{MODEL}, engine: general}}, {{{SKIP}: [1.mlp]}}]",
        r"member 's': of: must be the target 't', .* got 't', engine='general'",
    ),
    (
        f"name: p\nmembers: [{TARGET}, {DRAFT}, {{{LORA}: a, of: e}}]",
        r"member 'a': of: must be a drafter with weights .* got 'e' \(kind none\); accepted: d$",
    ),
    (
        f"name: p\nmembers: [{TARGET}, {DRAFT}, {{{LORA}: a, of: t}}]",
        r"member 'a': of: must be a drafter .* got 't' \(the target\); accepted: d$",
    ),
    (
        f"name: p\nmembers: [{TARGET}, {DRAFT}, {{{LORA}: a, of: d}}, {{{LORA}: b, of: a}}]",
        r"of: must be a drafter .* got 'a' \(kind lora\); accepted: d$",
    ),
    (
        f"name: p\nmembers: [{TARGET}, {DRAFT[:-1]}, engine: general}}, {{{LORA}: a, of: d}}]",
        r"member 'a': of: .* in the fast engine, got 'd' \(kind model\); accepted: none$",
    ),
    (f"name: p\nmembers: [{TARGET}, {{name: a, kind: lora, of: d}}]", r"\[1\]\.adapter: missing"),
]


@pytest.mark.parametrize(("content", "expected"), WRONG_FILES, ids=range(len(WRONG_FILES)))
def test_a_wrong_pool_file_is_refused_in_one_line(
    tmp_path: Path, content: str | bytes, expected: str
) -> None:
    file = pool_file(tmp_path, content)
    with pytest.raises(ConfigError, match=expected) as refused:
        load_pool(file)
    assert str(refused.value).startswith(file)
    assert "\n" not in str(refused.value)


def test_an_unknown_pool_is_refused_with_the_known_ones() -> None:
    expected = r"no pool 'tini' \(did you mean 'tiny'\?\); accepted: llama2, qwen3, "
    with pytest.raises(NotFoundError, match=expected):
        load_pool("tini")


@pytest.mark.parametrize("path", ["nowhere.yaml", "./tiny"])
def test_a_missing_pool_file_is_refused_by_path(path: str) -> None:
    with pytest.raises(NotFoundError, match=f"pool: no file '{path}'"):
        load_pool(path)


def test_a_model_that_is_neither_directory_nor_hub_name_is_refused(tmp_path: Path) -> None:
    pool = load_pool(
        pool_file(
            tmp_path, "name: p\nmembers: [{name: t, kind: model, role: target, model: a/b/c}]"
        )
    )
    expected = (
        rf"members\.t\.model: 'a/b/c' is no directory \({tmp_path}/a/b/c\); it is no hub name"
    )
    with pytest.raises(NotFoundError, match=expected):
        resolve_directories(pool)


def test_a_hub_model_without_the_hub_is_refused_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    pool = load_pool(
        pool_file(tmp_path, "name: p\nmembers: [{name: t, kind: model, role: target, model: a/b}]")
    )
    expected = r"members\.t\.model: 'a/b' is no directory .* out of reach .*: run `hf download a/b`"
    with pytest.raises(NotFoundError, match=expected):
        resolve_directories(pool)


def test_the_hash_tells_whether_a_running_pool_is_the_wanted_one(tiny_copy: Path) -> None:
    file, small = str(tiny_copy), tiny_copy.parent / "tiny" / "small"
    first = load_pool(file).config_hash
    assert load_pool(file).config_hash == first
    assert load_pool(file, dtype=Dtype.FP32).config_hash != first
    (small / "README.md").write_text("not part of the model")
    assert load_pool(file).config_hash == first
    os.utime(small / "model.safetensors", ns=(1, 1))
    assert load_pool(file).config_hash != first


CHAIN_NAMES = ["lookup", "small", "medium", "target"]


@given(st.lists(st.sampled_from([*CHAIN_NAMES, "", "larg"]), max_size=5))
def test_a_chain_is_taken_exactly_when_it_can_run(names: list[str]) -> None:
    right = (
        set(names) <= set(CHAIN_NAMES)
        and len(set(names)) == len(names) > 0
        and names[-1] == "target"
        and "lookup" not in names[1:]
    )
    pool = load_pool("tiny")
    text = " , ".join(names)
    if right:
        assert parse_chain(pool, text) == tuple(names)
    else:
        with pytest.raises(InputError, match=r"^chain: "):
            parse_chain(pool, text)


@pytest.mark.parametrize(
    ("chain", "expected"),
    [
        ("smal,target", r"no member 'smal' \(did you mean 'small'\?\); accepted: lookup, small"),
        ("small", r"'small' does not end in 'target'; a chain is 'auto' or drafters, then"),
        ("target,target", r"'target' occurs twice"),
        ("small,lookup,target", r"'lookup' verifies nothing and can only stand first"),
        ("", r"a name is empty"),
    ],
)
def test_a_wrong_chain_is_refused_with_what_is_right(chain: str, expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        parse_chain(load_pool("tiny"), chain)


@pytest.mark.parametrize(
    ("device", "quantization"),
    [("cpu", Quantization.INT8), ("cuda", Quantization.INT8), ("cuda", Quantization.FP8)],
)
def test_a_quantised_copy_is_on_the_device_of_its_member(
    tmp_path: Path, device: str, quantization: Quantization
) -> None:
    on = f"device: {device}, num_gpus: {0.5 if device == 'cuda' else 0}"
    copy = f"{{name: q, kind: quantised, of: t, quantization: {quantization.value}}}"
    pool = load_pool(
        pool_file(
            tmp_path,
            f"name: p\nmembers: [{MODEL}, {on}}}, {copy}, {DRAFT[:-1]}, {on}, "
            f"quantization: {quantization.value}}}]",
        )
    )
    target, copied, drafter = pool.config.models
    assert (copied.device, copied.num_gpus) == (target.device, target.num_gpus)
    assert copied.quantization is drafter.quantization is quantization
    default = copy.replace(f", quantization: {quantization.value}", "")
    pool = load_pool(pool_file(tmp_path, f"name: p\nmembers: [{TARGET}, {default}]"))
    assert pool.config.models[1].quantization is Quantization.INT8


def test_members_written_for_elsewhere_are_the_same_pool(tmp_path: Path) -> None:
    kinds = (
        "{name: q, kind: quantised, of: t, quantization: int8}",
        "{name: s, kind: layer_skip, of: t, mask: [1.mlp]}",
        "{name: l, kind: lookup}",
    )
    pool = load_pool("tiny")
    members = [{**m, "name": "t"} for m in portable_members(pool) if m["name"] == "target"]
    first = pool_file(
        tmp_path, f"name: p\nmembers: [{', '.join((json.dumps(members[0]), *kinds))}]"
    )
    written = portable_members(resolve_directories(load_pool(first)))
    (tmp_path / "elsewhere").mkdir()
    second = load_pool(
        pool_file(tmp_path / "elsewhere", json.dumps({"name": "p", "members": written}))
    )
    assert second.config == load_pool(first).config
    assert Path(second.config.target.model).is_absolute()
