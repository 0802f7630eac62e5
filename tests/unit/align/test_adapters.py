"""LoRA adapters for tasks: what is trained and kept of it, and that PEFT and the pool read it."""

from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from specrouter_dist.align.adapters import add_adapter, save_adapter
from specrouter_dist.align.config import AlignmentConfig, LoraSettings
from specrouter_dist.align.students import load_model
from specrouter_dist.align.task_drafters import Aligner
from specrouter_dist.align.training import Trainer
from specrouter_dist.errors import ConfigError
from specrouter_dist.pools.adapter_files import WEIGHTS, read_adapter
from specrouter_dist.validation import validated
from tests.unit.align.models import aligner_of
from tests.unit.align.test_task_drafters import CONFIG, Killed

SETTINGS = LoraSettings(rank=8, alpha=16)
LORA = CONFIG.model_copy(update={"form": "lora", "lora": SETTINGS})


@pytest.fixture
def prompts(prompts: dict[str, list[list[int]]]) -> dict[str, list[list[int]]]:
    """Of one task."""
    return {"code": prompts["code"]}


def aligner(members: dict[str, Path], out: Path, config: AlignmentConfig = LORA) -> Aligner:
    return aligner_of(members, out, config)


def test_a_task_gets_an_adapter_that_agrees_more_than_the_base(
    members: dict[str, Path], prompts: dict[str, list[list[int]]], tmp_path: Path
) -> None:
    base = (members["base"] / "model.safetensors").read_bytes()
    (report,) = aligner(members, tmp_path / "out").align(prompts)
    greedy, _ = report.agreement
    assert greedy.after > greedy.before + 0.05
    assert report.directory == tmp_path / "out" / "code-lora"
    files = read_adapter(report.directory, members["base"])
    assert (files.rank, files.scale) == (8, 2.0)
    assert {path.name for path in report.directory.iterdir()} == {WEIGHTS, "adapter_config.json"}
    assert (members["base"] / "model.safetensors").read_bytes() == base


def test_a_checkpoint_holds_the_adapter_alone_and_a_killed_run_goes_on_from_it(
    members: dict[str, Path],
    prompts: dict[str, list[list[int]]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = aligner(members, tmp_path / "whole").align(prompts)
    step, killed = Trainer._step, tmp_path / "killed"

    def dying(self: Trainer[object], batch: object) -> float:
        if self.progress.step == 10:
            raise Killed
        return step(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_step", dying)
        with pytest.raises(Killed):
            aligner(members, killed).align(prompts)
    state = torch.load(killed / "training" / "code" / "adapter.pt", weights_only=True)
    assert state["progress"]["step"] == 8
    assert all(".lora_" in name for name in state["model"])
    resumed = aligner(members, killed).align(prompts)
    assert resumed[0].agreement == whole[0].agreement
    first, second = (
        load_file(tmp_path / run / "code-lora" / WEIGHTS) for run in ("whole", "killed")
    )
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_without_anything_better_there_is_no_adapter(
    members: dict[str, Path], prompts: dict[str, list[list[int]]], tmp_path: Path
) -> None:
    members["base"] = members["target"]
    (report,) = aligner(members, tmp_path / "out").align(prompts)
    assert report.directory is None
    assert all(one.before == one.after == 1.0 for one in report.agreement)


def test_both_forms_learn_from_the_same_samples_and_keep_apart(
    members: dict[str, Path], prompts: dict[str, list[list[int]]], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    aligner(members, out, CONFIG).align(prompts)
    shards = sorted(out.rglob("*.npz"))
    written = [shard.stat().st_mtime_ns for shard in shards]
    aligner(members, out).align(prompts)
    assert [shard.stat().st_mtime_ns for shard in sorted(out.rglob("*.npz"))] == written
    assert (out / "code" / "model.safetensors").is_file()
    assert (out / "code-lora" / WEIGHTS).is_file()


def test_a_checkpoint_of_other_settings_is_refused(
    members: dict[str, Path], prompts: dict[str, list[list[int]]], tmp_path: Path
) -> None:
    aligner(members, tmp_path / "out").align(prompts)
    for settings in (LoraSettings(rank=4), LoraSettings(rank=8, projections=("q_proj",))):
        other = LORA.model_copy(update={"lora": settings})
        with pytest.raises(
            ConfigError, match=r"adapter\.pt: is of a run with other settings, '.*l"
        ):
            aligner(members, tmp_path / "out", other).align(prompts)


def test_a_new_adapter_changes_nothing_and_only_it_is_trained(members: dict[str, Path]) -> None:
    model, base = load_model(members["base"]), load_model(members["base"])
    add_adapter(model, LoraSettings(rank=2, projections=("q_proj", "down_proj")), seed=3)
    ids = torch.arange(9)[None]
    with torch.inference_mode():
        assert torch.equal(model(ids).logits, base(ids).logits)
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert len(trained) == 2 * 2 * 2
    again = load_model(members["base"])
    add_adapter(again, LoraSettings(rank=2, projections=("q_proj", "down_proj")), seed=3)
    both = zip(model.named_parameters(), again.named_parameters(), strict=True)
    assert all(torch.equal(one, other) for (_, one), (_, other) in both)


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
def test_what_is_written_is_what_peft_reads(members: dict[str, Path], tmp_path: Path) -> None:
    model, settings = load_model(members["base"]), LoraSettings(rank=2, alpha=3)
    add_adapter(model, settings, seed=1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(torch.randn_like(parameter))
            if ".lora_" in name:
                parameter.copy_(parameter.bfloat16())
    save_adapter(model, settings, tmp_path / "own")
    ids = torch.arange(9)[None]
    read = PeftModel.from_pretrained(load_model(members["base"]), tmp_path / "own")
    with torch.inference_mode():
        wanted = model(ids).logits
        torch.testing.assert_close(read(ids).logits, wanted)
        assert not torch.allclose(load_model(members["base"])(ids).logits, wanted, atol=1e-2)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"form": "loar"}, "form: .*'full', 'layers' or 'lora', got 'loar'"),
        ({"lora": {"rank": 4}}, "lora: settings of adapters go with form 'lora', got 'full'"),
        ({"form": "lora", "lora": {"rank": 0}}, r"lora\.rank: .*greater than 0, got 0"),
        ({"form": "lora", "lora": {"alpha": -1}}, r"lora\.alpha: .*greater than 0"),
        ({"form": "lora", "lora": {"projections": []}}, r"lora\.projections: .*at least 1"),
        (
            {"form": "lora", "lora": {"projections": ["q_proj", "wq", "q_proj"]}},
            "projections: accepted, once each: q_proj, .*; got q_proj, wq",
        ),
    ],
)
def test_settings_that_are_wrong(fields: dict[str, object], expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        validated(AlignmentConfig, fields, error=ConfigError)
