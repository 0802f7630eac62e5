"""A drafter for each task: it learns, keeps what is better, and goes on where it was killed."""

from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig

from specrouter_dist.align.config import AlignmentConfig, DistillationConfig, OptimizerConfig
from specrouter_dist.align.samples import read_lessons
from specrouter_dist.align.students import load_model
from specrouter_dist.align.task_drafters import POOLED, Aligner
from specrouter_dist.align.training import Trainer
from specrouter_dist.errors import ConfigError, RequestError

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
    return Aligner(members["target"], members["base"], out, config)


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


def test_without_anything_better_the_base_drafter_is_kept(
    members: dict[str, Path], prompts: dict[str, list[list[int]]], tmp_path: Path
) -> None:
    members["base"] = members["target"]
    (report,) = aligner(members, tmp_path / "out").align({"code": prompts["code"]})
    assert report.directory is None
    assert all(one.before == one.after == 1.0 for one in report.agreement)


def test_it_stops_when_nothing_gets_better(
    members: dict[str, Path], prompts: dict[str, list[list[int]]], tmp_path: Path
) -> None:
    members["base"] = members["target"]
    config = CONFIG.model_copy(update={"patience": 2})
    (report,) = aligner(members, tmp_path / "out", config).align({"code": prompts["code"]})
    assert report.steps < 24


def test_too_few_prompts_and_models_that_cannot_be_trained_are_refused(
    members: dict[str, Path], prompts: dict[str, list[list[int]]], tmp_path: Path
) -> None:
    with pytest.raises(RequestError, match=r"8 of task 'code' .* more than 8 are needed"):
        aligner(members, tmp_path / "out").align({"code": prompts["code"][:8]})
    config = LlamaConfig.from_pretrained(members["target"])
    config.num_key_value_heads = 1
    config.save_pretrained(members["target"])
    with pytest.raises(ConfigError, match="with 1 of 2 heads"):
        aligner(members, tmp_path / "out").align(prompts)
