"""Prompts to measure with, told apart by a pool's own partition, and the drafters of its tasks."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.prompts import read_prompts
from specrouter_dist.pools.loading import Pool, lora_members
from specrouter_dist.serving.tasks import open_classifier
from specrouter_dist.speculation.messages import TokenArray
from specrouter_dist.tasks.classifier import TaskClassifier
from specrouter_dist.text.tokenizer import Tokenizer

_ALL = 10_000
"""More than any task has."""
_FORMS = ("", "-layers", "-lora")
"""What a drafter's directory has behind its task, by what was trained (align/forms.py)."""


@dataclass(frozen=True, slots=True)
class ToldPrompt:
    """One prompt."""

    ids: TokenArray
    task: str
    """What the classifier says; empty: none of its tasks."""
    label: str
    """What the data say, a task of dev or a suite of eval; nothing has learned from it."""


def classifier_of(pool: Pool) -> TaskClassifier:
    """
    Raises:
        SystemExit: the pool names no partition.
    """
    classifier = open_classifier(pool)
    if classifier is None:
        raise SystemExit(f"pool {pool.config.name!r} names no tasks: file; see docs/tasks.md")
    return classifier


def told_prompts(pool: Pool, data: Path, split: str, most_tokens: int) -> list[ToldPrompt]:
    """Those of a split with at most ``most_tokens`` tokens, one of each label in turn."""
    classifier = classifier_of(pool)
    tokenizer = Tokenizer.load(pool.directories[pool.config.target.name])
    found = []
    for prompt in read_prompts(data, split, _ALL):
        ids = tokenizer.encode(prompt.text)
        if 0 < len(ids) <= most_tokens:
            found.append(ToldPrompt(ids, classifier.task(ids), prompt.task))
    return found


def first_of_each(
    prompts: Sequence[ToldPrompt], tasks: Sequence[str], count: int
) -> list[ToldPrompt]:
    """The first ``count`` of each of ``tasks``, one of each in turn."""
    by_task = [[prompt for prompt in prompts if prompt.task == task][:count] for task in tasks]
    return [own[i] for i in range(count) for own in by_task if i < len(own)]


def task_drafters(pool: Pool) -> dict[str, str]:
    """The drafter of each task that has one, a model or an adapter. ``tasks align`` calls its
    directory like the task, and its form."""
    directories = {**pool.directories, **{m.name: Path(m.adapter) for m in lora_members(pool)}}
    by_place = {directory.name: name for name, directory in directories.items()}
    return {
        task: by_place[task + form]
        for task in classifier_of(pool).names
        for form in _FORMS
        if task + form in by_place
    }
