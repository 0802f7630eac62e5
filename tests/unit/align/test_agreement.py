"""Agreement of a model with itself and with others."""

from __future__ import annotations

import pytest
import torch

from specrouter_dist.align.agreement import agreement, own_continuations, picks
from specrouter_dist.align.config import StudentConfig
from specrouter_dist.align.students import cut_student
from tests.unit.align.models import tiny_target

TASKS = ("code", "code", "math")
PROMPTS = ([5, 6, 7], [8, 9, 10, 11], [20, 21, 22, 23, 24])


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_a_model_agrees_with_itself(temperature: float) -> None:
    model = tiny_target(64)
    texts = own_continuations(model, TASKS, PROMPTS, temperature, 10)
    found = agreement(picks(model, texts, temperature), picks(model, texts, temperature))
    assert found.mean == 1.0 and found.per_task == {"code": 1.0, "math": 1.0}
    assert found.positions == sum(len(text.tokens) - text.prompt_length for text in texts)


def test_greedy_picks_are_the_continuation_itself() -> None:
    model = tiny_target(64)
    texts = own_continuations(model, TASKS, PROMPTS, 0.0, 10)
    wanted = [t for e in texts if e.task == "math" for t in e.tokens[e.prompt_length :]]
    assert picks(model, texts, 0.0)["math"].tolist() == wanted


def test_strangers_hardly_agree_but_share_the_noise() -> None:
    model, stranger = tiny_target(64), tiny_target(64, seed=1)
    texts = own_continuations(model, TASKS, PROMPTS, 0.8, 40)
    apart = agreement(picks(model, texts, 0.8), picks(stranger, texts, 0.8))
    assert apart.mean < 0.6
    noise_alone = agreement(picks(model, texts, 1e6), picks(stranger, texts, 1e6))
    assert noise_alone.mean > 0.95


def test_the_mean_counts_tasks_alike() -> None:
    first = {"code": torch.tensor([1, 2, 3, 4]), "math": torch.tensor([1])}
    second = {"code": torch.tensor([1, 2, 0, 0]), "math": torch.tensor([1])}
    assert agreement(first, second).mean == pytest.approx(0.75)


def test_a_student_of_all_layers_is_its_target() -> None:
    target = tiny_target(64)
    student = cut_student(target, StudentConfig(from_layers=(0, 1), intermediate_size=24)).eval()
    texts = own_continuations(target, TASKS, PROMPTS, 0.0, 10)
    assert agreement(picks(target, texts, 0.0), picks(student, texts, 0.0)).mean == 1.0


def test_trimming_keeps_the_neurons_that_weigh_most() -> None:
    target = tiny_target(64)
    with torch.no_grad():
        target.model.layers[0].mlp.down_proj.weight[:, 3] *= 1000
    student = cut_student(target, StudentConfig(from_layers=(0,), intermediate_size=1))
    wanted = target.model.layers[0].mlp.gate_proj.weight[3]
    assert torch.equal(student.model.layers[0].mlp.gate_proj.weight[0], wanted)
