"""Agreement of a model with itself and with others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from specrouter_dist.align.agreement import agreement, greedy_picks
from specrouter_dist.align.config import StudentConfig
from specrouter_dist.align.data import Example
from specrouter_dist.align.generation import picks_along
from specrouter_dist.align.samples import own_texts, samplings_of
from specrouter_dist.align.students import cut_student
from specrouter_dist.config import SamplingParams
from specrouter_dist.engine.interface import Engine
from tests.unit.align.models import engine_of, tiny_target

TASKS = ("code", "code", "math")
PROMPTS = ([5, 6, 7], [8, 9, 10, 11], [20, 21, 22, 23, 24])


@pytest.fixture
def model(tmp_path: Path) -> Engine:
    return engine_of(tiny_target(64), tmp_path / "model")


def draws(temperature: float, max_new: int = 10) -> list[SamplingParams]:
    return samplings_of(len(PROMPTS), (temperature,), frozenset({0}), max_new)


def texts_of(model: Engine, draws: Sequence[SamplingParams]) -> list[Example]:
    return own_texts(model, TASKS, PROMPTS, draws)


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_a_model_picks_what_it_writes(model: Engine, temperature: float) -> None:
    drawn = draws(temperature)
    texts = texts_of(model, drawn)
    found = agreement(texts, picks_along(model, texts, drawn))
    assert found.mean == 1.0 and found.per_task == {"code": 1.0, "math": 1.0}
    assert found.positions == sum(len(text.tokens) - text.prompt_length for text in texts)


def test_in_training_it_picks_the_same(model: Engine) -> None:
    texts = texts_of(model, draws(0.0))
    assert greedy_picks(tiny_target(64), texts) == [list(text.completion) for text in texts]


def test_strangers_hardly_agree_but_share_the_noise(model: Engine, tmp_path: Path) -> None:
    stranger = engine_of(tiny_target(64, seed=1), tmp_path / "stranger")
    drawn = draws(0.8, 40)
    texts = texts_of(model, drawn)
    assert agreement(texts, picks_along(stranger, texts, drawn)).mean < 0.6
    # At such a temperature the noise decides.
    loud = [one.model_copy(update={"temperature": 100.0}) for one in drawn]
    texts = texts_of(model, loud)
    assert agreement(texts, picks_along(stranger, texts, loud)).mean > 0.6
    other_noise = [one.model_copy(update={"seed": one.seed + 1}) for one in loud]
    assert agreement(texts, picks_along(stranger, texts, other_noise)).mean < 0.3


def test_the_mean_counts_tasks_alike() -> None:
    texts = [
        Example("code", (9, 1, 2), 1),
        Example("code", (9, 3, 4), 1),
        Example("math", (9, 1), 1),
    ]
    assert agreement(texts, [[1, 2], [0, 0], [1]]).mean == pytest.approx(0.75)


def test_a_student_of_all_layers_is_its_target(model: Engine) -> None:
    shape = StudentConfig(from_layers=(0, 1), intermediate_size=24)
    student = cut_student(tiny_target(64), shape).eval()
    texts = texts_of(model, draws(0.0))
    assert agreement(texts, greedy_picks(student, texts)).mean == 1.0


def test_trimming_keeps_the_neurons_that_weigh_most() -> None:
    target = tiny_target(64)
    with torch.no_grad():
        target.model.layers[0].mlp.down_proj.weight[:, 3] *= 1000
    student = cut_student(target, StudentConfig(from_layers=(0,), intermediate_size=1))
    wanted = target.model.layers[0].mlp.gate_proj.weight[3]
    assert torch.equal(student.model.layers[0].mlp.gate_proj.weight[0], wanted)
