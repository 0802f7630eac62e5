"""A drafter for each task: it learns, keeps what is better, and goes on where it was killed."""

import json
import os
import shutil
import tracemalloc
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from specrouter_dist.align.config import AlignmentConfig, DistillationConfig, OptimizerConfig
from specrouter_dist.align.forms import FullCopy
from specrouter_dist.align.samples import Teacher, make_samples, read_lessons
from specrouter_dist.align.students import load_model, replacing
from specrouter_dist.align.task_drafters import POOLED, Aligner
from specrouter_dist.align.training import Trainer
from specrouter_dist.errors import ConfigError, RequestError
from tests.unit.align.models import aligner_of, served

CONFIG = AlignmentConfig(
    shards=2,
    prompts_per_shard=8,
    max_new_tokens=8,
    held_out_prompts=4,
    patience=20,
    distillation=DistillationConfig(
        kl_share=1.0,
        optimizer=OptimizerConfig(
            learning_rate=1e-2, steps=24, warmup_steps=2, tokens_per_batch=128, checkpoint_every=4
        ),
    ),
)


class Killed(Exception):
    """The process dies."""


def aligner(members: dict[str, Path], out: Path, config: AlignmentConfig = CONFIG) -> Aligner:
    return aligner_of(members, out, config)


def test_every_task_gets_a_drafter_that_agrees_more_than_the_base(
    members: dict[str, Path], prompts: dict[str, list[list[int]]], tmp_path: Path
) -> None:
    reports = aligner(members, tmp_path / "out").align(prompts)
    assert [report.task for report in reports] == ["code", "math"]
    for report in reports:
        assert (report.num_prompts, report.num_reported, report.steps) == (12, 4, 24)
        greedy, sampled = report.agreement
        assert (greedy.temperature, sampled.temperature) == (0.0, 0.8)
        assert greedy.after > greedy.before + 0.1
        assert report.directory == tmp_path / "out" / report.task
        assert (report.directory / "tokenizer.json").is_file()


def test_one_drafter_for_all_tasks_learns_as_much_of_each_and_is_reported_by_task(
    members: dict[str, Path], prompts: dict[str, list[list[int]]], tmp_path: Path
) -> None:
    uneven = {"code": prompts["code"], "math": prompts["math"][:11]}
    alone = aligner(members, tmp_path / "alone").align(uneven)
    (report,) = aligner(members, tmp_path / "out").align(uneven, pooled=True)
    assert (report.task, report.num_prompts, report.num_reported) == (POOLED, 6, 8)
    assert report.directory == tmp_path / "out" / POOLED
    greedy = {one.task: one for one in report.agreement if one.temperature == 0.0}
    assert all(one.after > one.before + 0.1 for one in greedy.values())
    # On the very texts that the drafters of the tasks are judged by.
    for own in alone:
        assert own.agreement[0].before == greedy[own.task].before
        assert own.agreement[0].positions == greedy[own.task].positions
    held_out = {tuple(tokens) for own in uneven.values() for tokens in own[:8]}
    lessons = read_lessons(tmp_path / "out" / "training" / POOLED / "samples")
    learned = {lesson.example.tokens[: lesson.example.prompt_length] for lesson in lessons}
    assert not learned & held_out
    assert [sum(tuple(t) in learned for t in own) for own in uneven.values()] == [3, 3]


def test_a_killed_run_ends_with_the_drafter_of_an_uninterrupted_one(
    members: dict[str, Path],
    prompts: dict[str, list[list[int]]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one = {"code": prompts["code"]}
    whole = aligner(members, tmp_path / "whole").align(one)
    step = Trainer._step

    def dying(self: Trainer[object], batch: object) -> float:
        if self.progress.step == 10:
            raise Killed
        return step(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_step", dying)
        with pytest.raises(Killed):
            aligner(members, tmp_path / "killed").align(one)
    shards = sorted((tmp_path / "killed").rglob("*.npz"))
    written = [shard.stat().st_mtime_ns for shard in shards]
    resumed = aligner(members, tmp_path / "killed").align(one)
    assert [shard.stat().st_mtime_ns for shard in shards] == written
    assert resumed[0].agreement == whole[0].agreement
    first, second = (
        load_model(tmp_path / run / "code").state_dict() for run in ("whole", "killed")
    )
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_run_killed_while_it_writes_its_best_drafter_writes_it_again(
    members: dict[str, Path],
    prompts: dict[str, list[list[int]]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one = {"code": prompts["code"]}
    save, saved = FullCopy.save, []

    def counting(self: FullCopy, student: LlamaForCausalLM) -> None:
        saved.append(self.directory.parent.name)
        if saved.count("killed") == saved.count("whole"):
            raise Killed
        save(self, student)

    with monkeypatch.context() as patch:
        patch.setattr(FullCopy, "save", counting)
        whole = aligner(members, tmp_path / "whole").align(one)
        with pytest.raises(Killed):
            aligner(members, tmp_path / "killed").align(one)
    resumed = aligner(members, tmp_path / "killed").align(one)
    assert resumed[0].agreement == whole[0].agreement


def test_a_folder_is_there_again_when_replacing_it_was_killed_half_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, rename = tmp_path / "drafter", os.rename

    def dying(source: Path, target: Path) -> None:
        if target == folder:
            raise Killed
        rename(source, target)

    for text in ("first", "second"):
        with replacing(folder) as fresh:
            (fresh / "file").write_text(text)
    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", dying)
        with pytest.raises(Killed), replacing(folder) as fresh:
            (fresh / "file").write_text("third")
    assert not folder.exists()
    with pytest.raises(Killed), replacing(folder):
        raise Killed
    assert (folder / "file").read_text() == "second"
    with replacing(folder) as fresh:
        (fresh / "file").write_text("fourth")
    assert (folder / "file").read_text() == "fourth"
    assert [path.name for path in tmp_path.iterdir()] == ["drafter"]


def test_what_a_finished_training_wrote_is_put_back_and_missed(
    members: dict[str, Path], prompts: dict[str, list[list[int]]], tmp_path: Path
) -> None:
    one, out = {"code": prompts["code"]}, tmp_path / "out"
    whole = aligner(members, out).align(one)
    # As if it had been killed while it replaced the folder.
    (out / "code").rename(out / "code.old")
    again = aligner(members, out).align(one)
    assert again[0].directory == out / "code" and again[0].agreement == whole[0].agreement
    shutil.rmtree(out / "code")
    with pytest.raises(
        ConfigError, match=r"code: is missing, .* remove .*training/code/drafter\.pt"
    ):
        aligner(members, out).align(one)


def test_without_anything_better_the_base_drafter_is_kept(
    members: dict[str, Path], prompts: dict[str, list[list[int]]], tmp_path: Path
) -> None:
    members["base"] = members["target"]
    # Of a training whose folder somebody has removed.
    shutil.copytree(members["target"], tmp_path / "out" / "code")
    (report,) = aligner(members, tmp_path / "out").align({"code": prompts["code"]})
    assert report.directory is None and not (tmp_path / "out" / "code").exists()
    assert all(one.before == one.after == 1.0 for one in report.agreement)


def test_it_stops_when_nothing_gets_better(
    members: dict[str, Path], prompts: dict[str, list[list[int]]], tmp_path: Path
) -> None:
    members["base"] = members["target"]
    # So slowly that nothing changes, whatever order this CPU adds in: at a usual rate a drafter
    # that agrees always becomes worse first, and then better at every look.
    optimizer = CONFIG.distillation.optimizer.model_copy(update={"learning_rate": 1e-12})
    distillation = CONFIG.distillation.model_copy(update={"optimizer": optimizer})
    config = CONFIG.model_copy(update={"patience": 2, "distillation": distillation})
    (report,) = aligner(members, tmp_path / "out", config).align({"code": prompts["code"]})
    assert report.steps == 12, "the first look and two more, one every four steps"
    (again,) = aligner(members, tmp_path / "out", config).align({"code": prompts["code"]})
    assert again.steps == report.steps


def test_prompts_and_texts_stay_within_a_short_context(
    members: dict[str, Path], prompts: dict[str, list[list[int]]], tmp_path: Path
) -> None:
    longest = max(map(len, prompts["code"]))
    config = LlamaConfig.from_pretrained(members["target"])
    config.max_position_embeddings = longest + 2
    config.save_pretrained(members["target"])
    too_long = [7] * (longest + 2)
    (report,) = aligner(members, tmp_path / "out").align({"code": [*prompts["code"], too_long]})
    assert report.num_prompts == 12
    lessons = read_lessons(tmp_path / "out" / "training" / "code" / "samples")
    assert max(len(lesson.example.tokens) for lesson in lessons) <= longest + 2


def test_samples_of_many_shards_take_the_memory_of_one(
    members: dict[str, Path], prompts: dict[str, list[list[int]]], tmp_path: Path
) -> None:
    teacher = Teacher(served(members["target"]), eos_ids=frozenset())

    def peak_bytes(num_shards: int) -> int:
        config = CONFIG.model_copy(update={"shards": num_shards, "max_new_tokens": 64})
        tracemalloc.start()
        make_samples(teacher, "code", prompts["code"], tmp_path / str(num_shards), config)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return peak

    peak_bytes(1)
    assert peak_bytes(9) < 1.5 * peak_bytes(2)
    assert len(list((tmp_path / "9").glob("*.npz"))) == 9


def test_too_few_prompts_and_models_that_cannot_be_trained_are_refused(
    members: dict[str, Path], prompts: dict[str, list[list[int]]], tmp_path: Path
) -> None:
    with pytest.raises(RequestError, match=r"8 of task 'code' .* more than 8 are needed"):
        aligner(members, tmp_path / "out").align({"code": prompts["code"][:8]})
    config = json.loads((members["base"] / "config.json").read_text())
    (members["base"] / "config.json").write_text(json.dumps({**config, "model_type": "qwen2"}))
    with pytest.raises(ConfigError, match=r"--base: .* 'llama' can be trained, 'base' is 'qwen2'"):
        aligner(members, tmp_path / "out").align(prompts)


def test_a_drafter_that_would_lie_where_all_are_trained_is_refused(
    members: dict[str, Path], prompts: dict[str, list[list[int]]], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"task 'training' would lie in .*/out/training'"):
        aligner(members, tmp_path / "out").align({"training": prompts["code"]})
    assert not (tmp_path / "out").exists()
