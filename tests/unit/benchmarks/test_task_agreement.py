"""Agreement of drafters with the target, prompt by prompt."""

from array import array

import numpy as np
import pytest

from benchmarks.statistics import ratio_interval
from benchmarks.task_agreement import Hits, Models, count_hits, measure, summarise
from benchmarks.told_prompts import ToldPrompt
from specrouter_dist.align.samples import Teacher
from specrouter_dist.speculation.messages import TOKEN_TYPECODE
from tests.unit.align.models import engine_of, tiny_target

PROMPTS = [
    ToldPrompt(array(TOKEN_TYPECODE, [5 + i, 6, 7, 8 + i]), task, label)
    for i, (task, label) in enumerate(
        [("def", "code"), ("answer", "maths"), ("def", "code"), ("", "maths")]
    )
]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    """The drafter of task 'def' is the target itself."""
    folder = tmp_path_factory.mktemp("models")
    target, stranger, other, same = (
        engine_of(tiny_target(64, seed), folder / str(i)) for i, seed in enumerate((0, 1, 2, 0))
    )
    return Models(Teacher(target, frozenset({0})), stranger, control=other, of_task={"def": same})


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_each_prompt_is_judged_with_the_drafter_of_its_task(
    models: Models, temperature: float
) -> None:
    hits = count_hits(models, PROMPTS, temperature, 12)
    assert sorted(id(one.prompt) for one in hits) == sorted(map(id, PROMPTS))
    for one in hits:
        assert 0 < one.num_positions <= 12
        if one.prompt.task == "def":
            assert one.num_equal["task"] == one.num_positions > one.num_equal["base"]
        else:
            assert one.num_equal["task"] == one.num_equal["base"]


def test_a_prompts_own_count_is_that_of_the_prompt_alone(models: Models) -> None:
    together = {id(one.prompt): one.num_equal for one in count_hits(models, PROMPTS, 0.0, 12)}
    for prompt in PROMPTS:
        (alone,) = count_hits(models, [prompt], 0.0, 12)
        assert alone.num_equal == together[id(prompt)]


def test_it_is_told_by_task_and_by_label(models: Models) -> None:
    found = measure(models, PROMPTS, 0.0, 8)
    assert {task: row["num_prompts"] for task, row in found["by_task"].items()} == {
        "answer": 1,
        "def": 2,
        "none": 1,
    }
    assert {label: row["num_prompts"] for label, row in found["by_label"].items()} == {
        "code": 2,
        "maths": 2,
    }
    assert found["by_label"]["code"]["agreement"]["task"] == 1.0
    assert found["all"]["num_prompts"] == 4 and set(found["all"]["task_over"]) == {
        "base",
        "control",
    }


def test_a_gain_is_that_of_the_sums_and_its_interval_is_over_prompts() -> None:
    hits = [
        Hits(PROMPTS[i % 4], 100, {"base": base, "task": base + 10})
        for i, base in enumerate([20, 40, 60, 80] * 10)
    ]
    row = summarise(hits)
    assert row["agreement"] == {"base": 0.5, "task": 0.6}
    gain = row["task_over"]["base"]
    assert 1.0 < gain["low"] < gain["median"] < gain["high"]
    assert gain["median"] == pytest.approx(1.2, abs=0.01)


def test_ratios_of_equals_have_no_width() -> None:
    values = np.arange(1.0, 20.0).tolist()
    same = ratio_interval(values, values)
    assert (same.low, same.median, same.high) == (1.0, 1.0, 1.0)


def test_without_a_base_there_is_no_ratio() -> None:
    assert ratio_interval([1, 1], [0, 1]) is None
