"""Tasks are found, their number is chosen, and the same prompts give the same tasks."""

from array import array

import numpy as np
import pytest

from specrouter_dist.align.clusters import choose_number
from specrouter_dist.align.naming import names_of
from specrouter_dist.align.partition import Partition, PartitionConfig, _held_out, fit_tasks
from specrouter_dist.align.prompts import Prompt
from specrouter_dist.errors import RequestError
from specrouter_dist.speculation.messages import TOKEN_TYPECODE
from specrouter_dist.text.tokenizer import Tokenizer
from tests.task_prompts import TARGET, fit, mixed, partition, texts


def test_three_kinds_are_found_named_and_told() -> None:
    found = partition()
    header = found.model.header
    assert found.choice.num_tasks == 3 and "3 tasks: the most with which" in found.choice.why
    assert [trial.num_tasks for trial in found.choice.trials] == [2, 3]
    assert found.learned.accuracy == 1.0
    assert sum(task.share for task in header.tasks) == pytest.approx(1.0)
    terms = [set(task.terms) for task in header.tasks]
    for word in ("question", "def", "german"):
        assert sum(word in own for own in terms) == 1
    assert len({task.name for task in header.tasks}) == 3


def test_the_same_prompts_and_seed_give_the_same_partition() -> None:
    first, second = partition().model, fit(mixed(40)).model
    assert first.header == second.header
    for name in ("weights", "bias", "idf"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))


def test_prompts_of_one_kind_are_one_task() -> None:
    found = fit(texts(60)["translate"], max_tasks=1)
    assert [task.share for task in found.model.header.tasks] == [1.0]
    assert found.learned.accuracy == 1.0


def test_where_nothing_repeats_there_is_one_task() -> None:
    vectors = np.random.default_rng(0).normal(size=(300, 16)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    chosen = choose_number(vectors, 4, seed=0)
    assert chosen.num_tasks == 1 and "1 task: with no number" in chosen.why


def test_too_few_prompts_are_refused() -> None:
    with pytest.raises(RequestError, match="49 distinct ones; at least 50 are needed"):
        fit(mixed(40)[:49])


def test_no_two_tasks_have_one_name() -> None:
    assert names_of([("def", "self", "x"), ("self", "def", "x"), (), ("self",)]) == [
        "def-self",
        "x",
        "task-3",
        "task-4",
    ]


def fit_alike(num_kinds: int, count: int, most_tasks: int) -> Partition:
    """Of ``count`` prompts that differ as texts and are ``num_kinds`` as features."""
    tokenizer = Tokenizer.load(TARGET)
    kinds = [tokenizer.encode(text) for text in mixed(8)[:num_kinds]]
    alike = [Prompt(f"Prompt {i}", kinds[i % num_kinds]) for i in range(count)]
    config = PartitionConfig(max_tasks=most_tasks)
    return fit_tasks(alike, config, separators=(), vocabulary_hash="0" * 64)


@pytest.mark.parametrize("num_kinds", [1, 2, 5])
def test_there_are_no_more_tasks_than_prompts_that_differ(num_kinds: int) -> None:
    found = fit_alike(num_kinds, 60, most_tasks=8)
    assert len(found.model.header.tasks) <= num_kinds
    assert found.learned.confusion.sum() == found.num_held_out == 12


def test_prompts_of_nothing_but_marks_are_one_task() -> None:
    marks = [Prompt(f"Prompt {i}", array(TOKEN_TYPECODE, [3] * (i + 1))) for i in range(60)]
    found = fit_tasks(marks, PartitionConfig(), separators=(3,), vocabulary_hash="0" * 64)
    assert [task.name for task in found.model.header.tasks] == ["prompt"]


def test_a_task_of_few_prompts_is_learned_and_not_held_out_whole() -> None:
    labels = np.array([0] * 57 + [1, 1, 2])
    for seed in range(50):
        is_held_out = _held_out(labels, seed)
        assert is_held_out.sum() == 12
        assert set(labels[~is_held_out]) == {0, 1, 2}
