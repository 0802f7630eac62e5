"""What a prompt is about: told of prompts never seen, and left open where they are like none."""

from pathlib import Path

import pytest

from specrouter_dist.tasks.classifier import NO_TASK, TaskClassifier
from specrouter_dist.tasks.model import read_model, write_model
from specrouter_dist.text.tokenizer import Tokenizer
from tests.task_prompts import TARGET, partition, texts

MATHS, CODE, TRANSLATE = (texts(60)[kind][55] for kind in ("maths", "code", "translate"))
"""Behind those that the partition was made of."""


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.load(TARGET)


@pytest.fixture(scope="module")
def classifier() -> TaskClassifier:
    return TaskClassifier(partition().model)


def test_unseen_prompts_of_three_kinds_are_three_tasks(
    classifier: TaskClassifier, tokenizer: Tokenizer
) -> None:
    told = [classifier.task(tokenizer.encode(text)) for text in (MATHS, CODE, TRANSLATE)]
    assert sorted(told) == sorted(classifier.names)
    posterior = classifier.posterior(tokenizer.encode(CODE))
    assert posterior.sum() == pytest.approx(1.0, abs=1e-5)
    assert classifier.names[posterior.argmax()] == told[1]


@pytest.mark.parametrize(
    "text",
    ["Ποιο είναι το νόημα της ζωής;", "Hey, what shall I cook tonight?", "जीवन का अर्थ क्या है?"],
)
def test_what_is_unlike_the_traffic_is_of_no_task(
    classifier: TaskClassifier, tokenizer: Tokenizer, text: str
) -> None:
    assert classifier.task(tokenizer.encode(text)) == NO_TASK


def test_nothing_but_marks_is_of_no_task(classifier: TaskClassifier, tokenizer: Tokenizer) -> None:
    assert classifier.task(sorted(tokenizer.special_ids)) == NO_TASK
    assert classifier.task([]) == NO_TASK


def test_a_conversation_that_changes_its_subject_moves(
    classifier: TaskClassifier, tokenizer: Tokenizer
) -> None:
    talk = [
        {"role": "user", "content": MATHS},
        {"role": "assistant", "content": "He buys 3. " * 40},
    ]
    before = classifier.task(tokenizer.encode_chat(talk[:1]))
    after = classifier.task(tokenizer.encode_chat([*talk, {"role": "user", "content": CODE}]))
    assert before == classifier.task(tokenizer.encode(MATHS))
    assert after == classifier.task(tokenizer.encode(CODE))


def test_a_hundred_thousand_tokens_are_told_by_their_end(
    classifier: TaskClassifier, tokenizer: Tokenizer
) -> None:
    code = tokenizer.encode(CODE)
    long = code * (100_000 // len(code))
    assert classifier.task(long) == classifier.task(code)


def test_it_says_the_same_from_its_file(
    classifier: TaskClassifier, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    model = partition().model
    write_model(model, tmp_path / "tasks")
    again = TaskClassifier(read_model(tmp_path / "tasks", model.header.vocabulary_hash))
    for text in (MATHS, CODE, TRANSLATE):
        ids = tokenizer.encode(text)
        assert again.posterior(ids) == pytest.approx(classifier.posterior(ids), abs=1e-2)
