"""A pool that cannot run is refused before anything is loaded, by file and field."""

import json
import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest

from specrouter_dist.config import Dtype, LayerSkipMember, Quantization
from specrouter_dist.errors import ConfigError
from specrouter_dist.pools.checks import check_pool, memory_available, shared_ids
from specrouter_dist.pools.loading import Pool, load_pool
from specrouter_dist.pools.model_files import count_parameters, read_eos_ids, weight_files


@pytest.fixture
def tiny(tiny_copy: Path) -> Pool:
    """A copy of the embedded pool, to be damaged."""
    return load_pool(str(tiny_copy))


def change_json(path: Path, **fields: Any) -> None:
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, **fields}))


def test_the_embedded_pool_can_run() -> None:
    report = check_pool(load_pool("tiny"))
    assert report.num_ids == 4096
    assert report.eos_ids == {0}
    assert report.member("target").num_parameters == 11_138_976
    assert report.member("target").weight_bytes == 2 * 11_138_976
    assert 0 < report.required_bytes < report.available_bytes


def test_fp32_takes_twice_the_memory_of_bf16() -> None:
    bf16 = check_pool(load_pool("tiny")).member("target")
    fp32 = check_pool(load_pool("tiny", dtype=Dtype.FP32)).member("target")
    assert fp32.weight_bytes == 2 * bf16.weight_bytes
    assert fp32.kv_bytes == 2 * bf16.kv_bytes


def bytes_in_8_bits(num_parameters: int, num_layers: int, width: int) -> int:
    """Of a member of the embedded pool: a tied embedding of 4,096 ids by 288 is held in bf16
    beside the head; queries, keys and values, their output, gate and up, and down have scales."""
    outputs = num_layers * (3 * 288 + 288 + 2 * width + 288) + 4096
    return num_parameters + 2 * 4096 * 288 + 4 * outputs


def test_weights_in_int8_take_a_byte_each(tiny: Pool) -> None:
    text = tiny.file.read_text()
    tiny.file.write_text(text.replace("tiny/medium", "tiny/medium, quantization: int8"))
    medium = check_pool(load_pool(str(tiny.file))).member("medium")
    assert medium.num_parameters is not None
    assert medium.weight_bytes == bytes_in_8_bits(medium.num_parameters, 3, 768)


@pytest.mark.parametrize("quantization", Quantization)
def test_a_gpu_holds_weights_in_8_bits_once(tiny: Pool, quantization: Quantization) -> None:
    text = tiny.file.read_text()
    on_gpu = f"tiny/medium, device: cuda, num_gpus: 0.5, quantization: {quantization.value}"
    tiny.file.write_text(text.replace("tiny/medium", on_gpu))
    medium = check_pool(load_pool(str(tiny.file))).member("medium")
    assert medium.num_parameters is not None
    assert medium.weight_bytes == bytes_in_8_bits(medium.num_parameters, 3, 768)


def test_a_cache_takes_keys_and_values_of_every_layer() -> None:
    target = check_pool(load_pool("tiny")).member("target")
    assert target.kv_bytes == 32768 * 2 * 10 * 6 * 48 * 2  # tokens, k and v, layers, heads, bf16


def test_more_memory_than_there_is_is_refused_with_the_sums() -> None:
    expected = r"^memory: the pool needs \d+ MiB \(small \d+ MiB .*\), 100 MiB are available; lower"
    with pytest.raises(ConfigError, match=expected):
        check_pool(load_pool("tiny"), available_bytes=100 * 2**20)


def test_memory_that_just_suffices_is_enough() -> None:
    pool = load_pool("tiny")
    required = check_pool(pool).required_bytes
    assert check_pool(pool, available_bytes=required).available_bytes == required
    with pytest.raises(ConfigError, match=r"^memory: "):
        check_pool(pool, available_bytes=required - 1)


def test_members_on_a_gpu_take_none_of_this_machines_memory(tiny: Pool) -> None:
    before = check_pool(tiny)
    text = tiny.file.read_text().replace("role: target", "role: target, device: cuda, num_gpus: 1")
    tiny.file.write_text(text)
    target = before.member("target")
    without_target = before.required_bytes - target.weight_bytes - target.kv_bytes
    assert check_pool(load_pool(str(tiny.file))).required_bytes == without_target


def test_a_quantised_copy_takes_memory_and_a_slim_member_none(tiny: Pool) -> None:
    before = check_pool(tiny)
    target = before.member("target")
    with tiny.file.open("a") as file:
        file.write("  - {name: slim, kind: layer_skip, of: target, mask: [1.mlp, 8.attention]}\n")
    assert check_pool(load_pool(str(tiny.file))).required_bytes == before.required_bytes
    with tiny.file.open("a") as file:
        file.write("  - {name: eight, kind: quantised, of: target, kv_tokens: 1024}\n")
    report = check_pool(load_pool(str(tiny.file)))
    eight = report.member("eight")
    assert target.num_parameters is not None
    assert eight.weight_bytes == bytes_in_8_bits(target.num_parameters, 10, 768)
    assert eight.kv_bytes == target.kv_bytes // 32
    assert report.required_bytes == before.required_bytes + eight.weight_bytes + eight.kv_bytes


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        ("10.mlp", "'10.mlp': the target's layers are 0 to 9$"),
        ("0.mlp", "'0.mlp': the first and the last layer are kept; layers 1 to 8 may be skipped$"),
        ("9.attention", "'9.attention': the first and the last layer are kept"),
    ],
)
def test_a_mask_must_fit_the_target(tiny: Pool, part: str, expected: str) -> None:
    with tiny.file.open("a") as file:
        file.write(f"  - {{name: slim, kind: layer_skip, of: target, mask: [4.mlp, {part}]}}\n")
    with pytest.raises(ConfigError, match=f"^member 'slim': mask: {expected}"):
        check_pool(load_pool(str(tiny.file)))


def test_a_mask_that_keeps_nothing_is_refused(tiny: Pool) -> None:
    everything = ", ".join(f"{i}.{part}" for i in range(10) for part in ("attention", "mlp"))
    with tiny.file.open("a") as file:
        file.write(f"  - {{name: slim, kind: layer_skip, of: target, mask: [{everything}]}}\n")
    with pytest.raises(ConfigError, match=r"'0\.attention': the first and the last layer are kept"):
        check_pool(load_pool(str(tiny.file)))


@pytest.mark.parametrize("num_layers", [1, 2])
def test_a_target_of_two_layers_has_none_to_skip(num_layers: int) -> None:
    member = LayerSkipMember(kind="layer_skip", name="slim", of="target", mask=("0.mlp",))
    with pytest.raises(ValueError, match=r"the last layer are kept; it has no others$"):
        member.check_layers(num_layers)


def test_memory_is_measured() -> None:
    assert 2**20 < memory_available() < 2**50


@pytest.mark.parametrize("kept", [0, 7, 8, 1000, 1_000_000, -1])
def test_a_truncated_weight_file_is_refused(tiny: Pool, kept: int) -> None:
    path = tiny.directories["medium"] / "model.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ConfigError, match=rf"^{path}: .*truncated"):
        check_pool(tiny)


def test_a_longer_weight_file_is_refused(tiny: Pool) -> None:
    path = tiny.directories["medium"] / "model.safetensors"
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(ConfigError, match=rf"^{path}: has \d+ bytes, its header says"):
        check_pool(tiny)


def test_a_missing_weight_file_is_refused(tiny: Pool) -> None:
    (tiny.directories["medium"] / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"medium: no weight file; accepted: model\.safetensors"):
        check_pool(tiny)


def shards(directory: Path) -> None:
    """Two shards of one tensor each, with their index."""
    names = {"a": "model-1.safetensors", "b": "model-2.safetensors"}
    for tensor, name in names.items():
        entry = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}
        header = json.dumps({tensor: entry}).encode()
        (directory / name).write_bytes(struct.pack("<Q", len(header)) + header + bytes(24))
    index = {"weight_map": names}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))


def test_shards_are_counted_together(tmp_path: Path) -> None:
    shards(tmp_path)
    assert count_parameters(tmp_path) == 12


def test_a_missing_shard_is_refused_by_name(tmp_path: Path) -> None:
    shards(tmp_path)
    (tmp_path / "model-2.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"index\.json: names weight files .*: model-2\.safet"):
        count_parameters(tmp_path)


def test_pytorch_weights_are_taken_whole_and_refused_truncated(tmp_path: Path) -> None:
    path = tmp_path / "pytorch_model.bin"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data.pkl", bytes(1000))
    assert weight_files(tmp_path) == [path]
    assert count_parameters(tmp_path) is None
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(ConfigError, match=rf"^{path}: truncated"):
        count_parameters(tmp_path)


def test_another_tokenizer_is_refused_with_the_first_id_that_differs(tiny: Pool) -> None:
    path = tiny.directories["small"] / "tokenizer.json"
    content = json.loads(path.read_text())
    vocabulary = content["model"]["vocab"]
    by_id = {i: token for token, i in vocabulary.items()}
    vocabulary[by_id[4000]], vocabulary[by_id[4001]] = 4001, 4000
    path.write_text(json.dumps(content))
    expected = r"member 'small': its tokenizer is another .*: id 4000 is .*, in 'target' "
    with pytest.raises(ConfigError, match=expected):
        check_pool(tiny)


def test_a_tokenizer_is_compared_by_content_not_by_bytes(tiny: Pool) -> None:
    path = tiny.directories["small"] / "tokenizer.json"
    content = json.loads(path.read_text())
    vocabulary = content["model"]["vocab"]
    content["model"]["vocab"] = dict(reversed(vocabulary.items()))
    path.write_text(json.dumps(content, indent=7))
    change_json(tiny.directories["small"] / "tokenizer_config.json", tokenizer_class="Other")
    assert check_pool(tiny).num_ids == 4096


def add_token(directory: Path) -> None:
    path = directory / "tokenizer.json"
    content = json.loads(path.read_text())
    content["added_tokens"].append({**content["added_tokens"][0], "id": 4096, "content": "<new>"})
    path.write_text(json.dumps(content))


def test_further_ids_of_a_drafter_are_cut_off(tiny: Pool) -> None:
    add_token(tiny.directories["small"])
    assert shared_ids(tiny.directories, "target") == 4096


def test_an_id_that_a_drafter_lacks_is_refused(tiny: Pool) -> None:
    add_token(tiny.directories["target"])
    expected = r"member 'small': .*id 4096 is None, in 'target' '<new>'"
    with pytest.raises(ConfigError, match=expected):
        check_pool(tiny)


def test_padded_heads_are_cut_to_the_ids_of_the_tokenizer(tiny: Pool) -> None:
    change_json(tiny.directories["medium"] / "config.json", vocab_size=4160)
    assert check_pool(tiny).num_ids == 4096


def test_a_head_with_fewer_rows_than_ids_is_refused(tiny: Pool) -> None:
    change_json(tiny.directories["medium"] / "config.json", vocab_size=4000)
    with pytest.raises(ConfigError, match=r"member 'medium': its head has 4000 rows, .* 4096 ids"):
        check_pool(tiny)


def test_a_damaged_tokenizer_is_refused(tiny: Pool) -> None:
    path = tiny.directories["small"] / "tokenizer.json"
    path.write_text('{"model": {}}')
    with pytest.raises(ConfigError, match=rf"^{path}: no tokenizer"):
        check_pool(tiny)
    path.write_text("{")
    with pytest.raises(ConfigError, match=rf"^{path}: no valid JSON"):
        check_pool(tiny)
    path.unlink()
    with pytest.raises(ConfigError, match=rf"^{path}: missing"):
        check_pool(tiny)


def test_eos_ids_are_those_of_both_files(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"eos_token_id": 5}')
    assert read_eos_ids(tmp_path) == {5}
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [7, 9]}')
    assert read_eos_ids(tmp_path) == {5, 7, 9}
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": "</s>"}')
    with pytest.raises(
        ConfigError, match=r"generation_config\.json: eos_token_id: ids are integers"
    ):
        read_eos_ids(tmp_path)


@pytest.mark.parametrize("field", ["vocab_size", "num_hidden_layers", "max_position_embeddings"])
def test_a_config_without_a_size_is_refused_by_field(tiny: Pool, field: str) -> None:
    change_json(tiny.directories["small"] / "config.json", **{field: None})
    with pytest.raises(ConfigError, match=rf"config\.json: {field}: an integer >= 1 is needed"):
        check_pool(tiny)


def test_the_context_is_the_least_of_model_member_and_cache(tiny: Pool) -> None:
    text = tiny.file.read_text()
    tiny.file.write_text(text.replace("model: tiny/target", "model: tiny/target, kv_tokens: 512"))
    assert check_pool(load_pool(str(tiny.file))).member("target").context_tokens == 512
    tiny.file.write_text(
        text.replace("model: tiny/target", "model: tiny/target, context_tokens: 99")
    )
    assert check_pool(load_pool(str(tiny.file))).member("target").context_tokens == 99


def test_a_context_beyond_the_models_is_refused(tiny: Pool) -> None:
    text = tiny.file.read_text()
    tiny.file.write_text(text.replace("tiny/target", "tiny/target, context_tokens: 4096"))
    expected = r"member 'target': context_tokens: at most 2048, .*, got 4096"
    with pytest.raises(ConfigError, match=expected):
        check_pool(load_pool(str(tiny.file)))


def test_what_the_general_engine_was_asked_to_run_has_no_8_bits(tiny: Pool) -> None:
    text = tiny.file.read_text()
    asked = text.replace("tiny/small", "tiny/small, engine: general, quantization: int8")
    tiny.file.write_text(asked)
    with pytest.raises(ConfigError, match=r"member 'small': quantization: .*engine: 'general'"):
        check_pool(load_pool(str(tiny.file)))


@pytest.mark.parametrize(
    ("member", "model", "message"),
    [
        (
            "{name: slim, kind: layer_skip, of: target, mask: [4.mlp]}",
            "target",
            "member 'slim': of: 'target' must run in the fast engine",
        ),
        (
            "{name: eight, kind: quantised, of: small}",
            "small",
            "member 'eight': quantization: 'eight' must run in the fast engine",
        ),
    ],
)
def test_what_only_the_fast_engine_has_is_not_asked_of_others(
    tiny: Pool, member: str, model: str, message: str
) -> None:
    """``engine: auto`` runs a model with another activation in the general engine."""
    text = tiny.file.read_text()
    tiny.file.write_text(text.replace("members:\n", f"members:\n  - {member}\n"))
    check_pool(load_pool(str(tiny.file)))
    change_json(tiny.directories[model] / "config.json", hidden_act="gelu")
    with pytest.raises(ConfigError, match=f"{message}.*hidden_act"):
        check_pool(load_pool(str(tiny.file)))
