"""The recipe end to end on tiny models: it resumes exactly, and improves what it trains."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from specrouter_dist.align import pool_training, samples
from specrouter_dist.align.config import (
    OptimizerConfig,
    PoolTrainingConfig,
    SamplesConfig,
    StudentConfig,
)
from specrouter_dist.align.pool_training import PoolTrainingReport, train_pool
from specrouter_dist.align.students import grown_student, load_model
from specrouter_dist.align.training import Progress, Trainer, learning_rate
from specrouter_dist.errors import ConfigError
from tests.unit.align.models import TINY_TARGET, tiny_target, write_data


class Killed(Exception):
    """The process dies."""


def optimizer(steps: int) -> OptimizerConfig:
    return OptimizerConfig(
        learning_rate=3e-3, steps=steps, warmup_steps=2, tokens_per_batch=128, checkpoint_every=4
    )


@pytest.fixture
def config() -> PoolTrainingConfig:
    student = StudentConfig(from_layers=(0,), intermediate_size=16, optimizer=optimizer(12))
    return PoolTrainingConfig(
        threads=1,
        dev_prompts_per_task=3,
        target=TINY_TARGET.model_copy(update={"optimizer": optimizer(8)}),
        samples=SamplesConfig(shards=2, max_new_tokens=6),
        medium=student,
        small=student.model_copy(update={"intermediate_size": 8}),
    )


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "PROMPTS_PER_SHARD", 12)
    monkeypatch.setattr(samples, "TEXT_EVERY", 2)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_data(tmp_path / "data")
    return tmp_path / "data"


def test_a_grown_drafter_says_what_it_said_before_and_can_learn() -> None:
    start, tokens = tiny_target(30), torch.arange(12).view(1, -1)
    shape = StudentConfig(from_layers=(0, 1, 1, 1), intermediate_size=24)
    grown = grown_student(start, shape)
    assert len(grown.model.layers) == 4
    torch.testing.assert_close(grown(tokens).logits, start(tokens).logits)
    grown(tokens).logits.square().mean().backward()
    for layer in grown.model.layers[1:3]:
        assert layer.mlp.down_proj.weight.grad.abs().max() > 0
    for wrong in ({"from_layers": (0,)}, {"intermediate_size": 8}):
        with pytest.raises(ConfigError, match="init_from: a drafter with 2 layers"):
            grown_student(start, shape.model_copy(update=wrong))


def run_until_killed(monkeypatch: pytest.MonkeyPatch, call: Any, kill_at: int) -> None:
    """Let the process die after ``kill_at`` optimizer steps, wherever that is."""
    step = Trainer._step
    taken = 0

    def dying(self: Any, batch: Any) -> float:
        nonlocal taken
        taken += 1
        if taken > kill_at:
            raise Killed
        return step(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_step", dying)
        with pytest.raises(Killed):
            call()


def test_a_killed_run_ends_with_the_weights_of_an_uninterrupted_one(
    config: PoolTrainingConfig, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_pool(config, data, tmp_path / "whole")
    for kill_at in (5, 6, 7):
        run_until_killed(
            monkeypatch, lambda: train_pool(config, data, tmp_path / "killed"), kill_at
        )
    train_pool(config, data, tmp_path / "killed")
    for member in ("target", "medium", "small"):
        whole, resumed = (
            load_model(tmp_path / run / member).state_dict() for run in ("whole", "killed")
        )
        assert all(torch.equal(whole[name], resumed[name]) for name in whole), member


def test_the_report_tells_every_stage_and_pair(
    config: PoolTrainingConfig, data: Path, tmp_path: Path
) -> None:
    report = train_pool(config, data, tmp_path / "pool")
    assert {name: stage.steps for name, stage in report.stages.items()} == {
        "target": 8,
        "medium": 12,
        "small": 12,
    }
    assert report.sampled_tokens > 0
    pairs = {(pair.drafter, pair.verifier, pair.temperature) for pair in report.agreement}
    assert len(pairs) == 6
    assert all(0 <= pair.mean <= 1 and pair.positions > 0 for pair in report.agreement)
    assert PoolTrainingReport.model_validate_json(report.model_dump_json()) == report
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "pool" / "small")
    chat = [{"role": "user", "content": "hello"}]
    shown = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert shown == "<|user|>hello<|assistant|>"


def test_distilling_lowers_the_loss(config: PoolTrainingConfig, data: Path, tmp_path: Path) -> None:
    longer = config.medium.model_copy(update={"optimizer": optimizer(60), "kl_share": 1.0})
    stages = ("target", "samples", "medium")
    train_pool(config.model_copy(update={"medium": longer, "stages": stages}), data, tmp_path)
    log = (tmp_path / "training" / "medium.jsonl").read_text().splitlines()
    losses = [entry["loss"] for entry in map(json.loads, log) if "loss" in entry]
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


def test_nothing_of_dev_is_trained_on(
    config: PoolTrainingConfig, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    train_target, make_shards = pool_training.train_target, pool_training.make_shards

    def watch_target(model: Any, shape: Any, train: Any, *rest: Any) -> Progress:
        tokenizer = pool_training.Tokenizer.from_file(str(tmp_path / "target/tokenizer.json"))
        seen.extend(tokenizer.decode(example.tokens) for example in train)
        return train_target(model, shape, train, *rest)

    def watch_samples(teacher: Any, tokenizer: Any, rows: Any, *rest: Any, **named: Any) -> int:
        seen.extend(row.prompt + row.completion for row in rows)
        return make_shards(teacher, tokenizer, rows, *rest, **named)

    monkeypatch.setattr(pool_training, "train_target", watch_target)
    monkeypatch.setattr(pool_training, "make_shards", watch_samples)
    train_pool(config, data, tmp_path)
    lessons = samples.read_lessons(tmp_path / "training" / "samples")
    tokenizer = pool_training.Tokenizer.from_file(str(tmp_path / "target/tokenizer.json"))
    seen.extend(tokenizer.decode(e.example.tokens[: e.example.prompt_length]) for e in lessons)
    assert len(seen) > 80
    assert all("train prompt" in text and "dev prompt" not in text for text in seen)


def test_a_left_out_target_is_taken_from_the_starting_pool(
    config: PoolTrainingConfig, data: Path, tmp_path: Path
) -> None:
    train_pool(config.model_copy(update={"stages": ("target",)}), data, tmp_path / "start")
    rest = config.model_copy(
        update={"stages": ("samples", "small"), "init_from": tmp_path / "start"}
    )
    report = train_pool(rest, data, tmp_path / "pool")
    first, second = (
        load_model(tmp_path / run / "target").state_dict() for run in ("start", "pool")
    )
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert {(pair.drafter, pair.verifier) for pair in report.agreement} == {("small", "target")}


def test_shards_survive_being_written_and_are_made_once(
    config: PoolTrainingConfig, data: Path, tmp_path: Path
) -> None:
    once = config.model_copy(update={"stages": ("target", "samples")})
    assert train_pool(once, data, tmp_path).sampled_tokens > 0
    folder = tmp_path / "training" / "samples"
    lessons = samples.read_lessons(folder)
    samples.write_shard(tmp_path / "copy.npz", lessons)
    again = samples.read_shard(tmp_path / "copy.npz")
    assert [lesson.example for lesson in again] == [lesson.example for lesson in lessons]
    assert all((a.top.ids == b.top.ids).all() for a, b in zip(again, lessons, strict=True))
    assert train_pool(once, data, tmp_path).sampled_tokens == 0


def test_the_learning_rate_warms_up_and_ends_at_zero() -> None:
    schedule = OptimizerConfig(learning_rate=1.0, steps=100, warmup_steps=10, minutes=1.0)
    assert learning_rate(schedule, Progress(step=0)) == pytest.approx(0.1)
    assert learning_rate(schedule, Progress(step=50)) == pytest.approx(0.5)
    assert learning_rate(schedule, Progress(step=20, seconds=30.0)) == pytest.approx(0.5)
    assert learning_rate(schedule, Progress(step=100)) == pytest.approx(0.0)
