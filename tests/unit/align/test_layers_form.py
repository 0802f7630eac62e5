"""Drafters of which the layers alone are trained: what is kept, and who reads it."""

import json
import shutil
from array import array
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaForCausalLM

from specrouter_dist.align.forms import Layers
from specrouter_dist.align.layers import LAYERS
from specrouter_dist.align.students import load_model, save_member
from specrouter_dist.config import Dtype, SamplingParams
from specrouter_dist.engine.fast import FastEngine
from specrouter_dist.engine.general import GeneralEngine
from specrouter_dist.engine.interface import Extension
from specrouter_dist.errors import ConfigError
from specrouter_dist.pools.model_files import (
    INDEX,
    count_parameters,
    read_tensors,
    relevant_files,
)
from tests.unit.align.models import aligner_of
from tests.unit.align.test_task_drafters import CONFIG

FORM = CONFIG.model_copy(update={"form": "layers"})
EMBEDDING = "model.embed_tokens.weight"


def changed(model: LlamaForCausalLM) -> LlamaForCausalLM:
    """With other values in what is trained."""
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.mul_(1 + 0.3 * torch.randn_like(parameter)).copy_(parameter.bfloat16())
    return model


@pytest.fixture
def form(members: dict[str, Path], tmp_path: Path) -> Layers:
    return Layers(tmp_path / "out" / "code-layers", members["base"], members["target"])


@pytest.fixture
def saved(form: Layers) -> LlamaForCausalLM:
    """What has been written into the form's directory."""
    student = changed(form.begin())
    form.save(student)
    return student.eval()


def picks(engine: FastEngine | GeneralEngine) -> list[int]:
    slot = engine.open(SamplingParams(temperature=0.0), 8, 20)
    return list(engine.extend([Extension(slot, 0, array("I", range(5, 13)), 8)])[0].tokens)


def engines(directory: Path) -> list[FastEngine | GeneralEngine]:
    return [
        engine.load(
            directory,
            dtype=Dtype.FP32,
            device="cpu",
            context_tokens=None,
            kv_tokens=256,
            max_sessions=2,
            num_ids=None,
            exact=True,
        )
        for engine in (FastEngine, GeneralEngine)
    ]


def test_a_task_gets_layers_that_agree_more_than_the_base(
    members: dict[str, Path], prompts: dict[str, list[list[int]]], tmp_path: Path
) -> None:
    aligner = aligner_of(members, tmp_path / "out", FORM)
    (report,) = aligner.align({"code": prompts["code"]})
    greedy, _ = report.agreement
    assert greedy.after > greedy.before + 0.05
    assert report.directory == tmp_path / "out" / "code-layers"
    state = torch.load(tmp_path / "out" / "training" / "code" / "layers.pt", weights_only=True)
    own = load_file(report.directory / LAYERS)
    assert set(state["model"]) == set(own) == set(read_tensors(members["base"])) - {EMBEDDING}


def test_what_is_written_is_what_everybody_reads(
    form: Layers, saved: LlamaForCausalLM, members: dict[str, Path]
) -> None:
    ids = torch.arange(5, 13)[None]
    with torch.inference_mode():
        wanted, before = saved(ids).logits, load_model(members["base"])(ids).logits
        assert not torch.allclose(wanted, before, atol=0.1)
        assert torch.equal(load_model(form.directory)(ids).logits, wanted)
    expected = wanted[0].argmax(dim=1).tolist()
    assert expected != before[0].argmax(dim=1).tolist()
    for engine in engines(form.directory):
        assert picks(engine) == expected, type(engine)
        assert engine.info.num_parameters == engines(members["base"])[0].info.num_parameters
    assert count_parameters(form.directory) == count_parameters(members["base"])
    assert not (form.directory / "model.safetensors").exists()
    assert (form.directory / "tokenizer.json").is_file()


@pytest.mark.parametrize("is_sharded", [False, True])
def test_a_head_of_its_own_stays_the_bases_too(
    form: Layers, members: dict[str, Path], *, is_sharded: bool
) -> None:
    base = load_model(members["base"])
    config = base.config
    config.tie_word_embeddings = False
    untied = LlamaForCausalLM(config)
    untied.load_state_dict(base.state_dict())
    with torch.no_grad():
        untied.lm_head.weight.copy_(base.lm_head.weight.roll(1, 0))
    save_member(untied, members["target"], members["base"])
    if is_sharded:
        sizes = {"max_shard_size": "1KB"}
        shutil.rmtree(members["base"])
        untied.to(torch.bfloat16).save_pretrained(members["base"], **sizes)
    student = form.begin()
    frozen = {name for name, p in student.named_parameters() if not p.requires_grad}
    assert frozen == {EMBEDDING, "lm_head.weight"}
    form.save(changed(student))
    ids = torch.arange(5, 13)[None]
    with torch.inference_mode():
        wanted = student.eval()(ids).logits
        assert torch.equal(load_model(form.directory)(ids).logits, wanted)
    assert picks(engines(form.directory)[0]) == wanted[0].argmax(dim=1).tolist()
    assert set(load_file(form.directory / LAYERS)).isdisjoint(frozen)


def test_base_and_drafter_can_be_moved_together(
    saved: LlamaForCausalLM, form: Layers, tmp_path: Path
) -> None:
    weight_map = json.loads((form.directory / INDEX).read_text())["weight_map"]
    assert set(weight_map.values()) == {LAYERS, "../../base/model.safetensors"}
    for name in ("base", "out"):
        (tmp_path / "elsewhere" / "pool").mkdir(parents=True, exist_ok=True)
        (tmp_path / name).rename(tmp_path / "elsewhere" / "pool" / name)
    moved = load_model(tmp_path / "elsewhere" / "pool" / "out" / "code-layers").state_dict()
    assert all(torch.equal(moved[name], value) for name, value in saved.state_dict().items())


def test_a_link_on_the_way_to_it_leads_to_the_same_base(
    members: dict[str, Path], tmp_path: Path
) -> None:
    (tmp_path / "disk" / "deep").mkdir(parents=True)
    (tmp_path / "out").symlink_to(tmp_path / "disk" / "deep")
    form = Layers(tmp_path / "out" / "code-layers", members["base"], members["target"])
    form.save(form.begin())
    form.save(form.begin())
    assert read_tensors(form.directory)[EMBEDDING].file.samefile(
        members["base"] / "model.safetensors"
    )


def test_a_drafter_begun_from_one_of_this_form_shares_the_first_ones_embedding(
    saved: LlamaForCausalLM, form: Layers, members: dict[str, Path], tmp_path: Path
) -> None:
    second = Layers(tmp_path / "second", form.directory, members["target"])
    second.save(second.begin())
    home = read_tensors(second.directory)[EMBEDDING].file
    assert home.resolve() == members["base"] / "model.safetensors"
    assert all(
        torch.equal(value, saved.state_dict()[name])
        for name, value in load_model(second.directory).state_dict().items()
    )


def test_the_bases_file_is_one_of_the_drafters(
    saved: LlamaForCausalLM, form: Layers, members: dict[str, Path]
) -> None:
    shared = members["base"] / "model.safetensors"
    assert relevant_files(form.directory)[-1].samefile(shared)
    shared.unlink()
    assert LAYERS in {path.name for path in relevant_files(form.directory)}
    said = rf"{INDEX}: names weight files that are missing: \.\./\.\./base/model\.safetensors"
    with pytest.raises(ConfigError, match=said):
        count_parameters(form.directory)
    with pytest.raises(ConfigError, match=said):
        engines(form.directory)


def test_a_base_in_pytorchs_format_is_refused_before_it_is_trained(
    form: Layers, members: dict[str, Path]
) -> None:
    weights = members["base"] / "model.safetensors"
    torch.save(load_file(weights), members["base"] / "pytorch_model.bin")
    weights.unlink()
    with pytest.raises(ConfigError, match="base: weights in safetensors are needed, got pytorch"):
        form.begin()


def test_an_index_that_is_not_true_is_refused(
    saved: LlamaForCausalLM, form: Layers, members: dict[str, Path]
) -> None:
    index = form.directory / INDEX
    content = json.loads(index.read_text())
    shared = members["base"] / "model.safetensors"
    norm = "model.norm.weight"
    for weight_map, said in (
        ([], r"weight_map: must map tensors to files, got \[\]"),
        ({EMBEDDING: 3}, "weight_map: must map tensors to files"),
        ({EMBEDDING: str(shared)}, f"weight_map: files are named relative to .*, got '{shared}'"),
        ({EMBEDDING: LAYERS}, f"tensor '{EMBEDDING}' is not in .*{LAYERS}, which it names"),
        (
            content["weight_map"] | {norm: content["weight_map"][EMBEDDING]},
            f"tensor '{norm}' is said to be in .*model.safetensors, but transformers takes it from "
            f".*{LAYERS}",
        ),
    ):
        index.write_text(json.dumps({**content, "weight_map": weight_map}))
        with pytest.raises(ConfigError, match=f"{INDEX}: {said}"):
            count_parameters(form.directory)


def test_a_base_that_lost_the_embedding_is_told(
    saved: LlamaForCausalLM, form: Layers, members: dict[str, Path]
) -> None:
    shared = members["base"] / "model.safetensors"
    tensors = load_file(shared)
    del tensors[EMBEDDING]
    save_file(tensors, shared)
    with pytest.raises(ConfigError, match=rf"{INDEX}: tensor '{EMBEDDING}' is not in .*/base/mod"):
        count_parameters(form.directory)
