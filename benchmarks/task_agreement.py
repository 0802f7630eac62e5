"""How often drafters pick the target's own token, prompt by prompt: the base drafter, the one that
was trained alike on all tasks (the control), and that of the prompt's task.

Teacher-forced on what the target writes (align/agreement.py). A task without a drafter of its own,
and a prompt of no task, has the base drafter, as in serving.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from tqdm import tqdm

from benchmarks.statistics import ratio_interval
from benchmarks.told_prompts import ToldPrompt, task_drafters
from specrouter_dist.align.agreement import num_equal
from specrouter_dist.align.generation import picks_along
from specrouter_dist.align.samples import Teacher, own_texts, samplings_of
from specrouter_dist.config import LoraMember
from specrouter_dist.engine.factory import load_adapted, load_engine
from specrouter_dist.engine.interface import Engine
from specrouter_dist.pools.adapter_files import WEIGHTS
from specrouter_dist.pools.checks import PoolReport
from specrouter_dist.pools.loading import Pool, lora_members

_PER_BATCH = 64
"""Prompts that the target continues at a time."""


@dataclass(frozen=True)
class Models:
    """What is compared, each as it is served."""

    target: Teacher
    base: Engine
    control: Engine | None
    of_task: Mapping[str, Engine]

    @classmethod
    def load(cls, pool: Pool, checked: PoolReport, base: str, control: Path | None) -> Self:
        """``control``: the directory of that drafter, a model or an adapter on the base drafter."""
        # Texts are as long as the shortest can read.
        context = min(member.context_tokens for member in checked.members)
        members = {
            member.name: member.model_copy(update={"context_tokens": context})
            for member in pool.config.models
        }

        def load(name: str, directory: Path | None = None) -> Engine:
            """A member, or what lies in ``directory`` in its place."""
            where, exact = directory or pool.directories[name], pool.config.exact
            return load_engine(members[name], where, num_ids=checked.num_ids, exact=exact)

        def adapted(member: LoraMember) -> Engine:
            return load_adapted(member, load(member.of), pool.directories[member.of])

        def of_all(directory: Path) -> Engine:
            if not (directory / WEIGHTS).exists():
                return load(base, directory)
            return adapted(LoraMember(kind="lora", name="control", of=base, adapter=str(directory)))

        adapters = {member.name: member for member in lora_members(pool)}
        return cls(
            Teacher(load(pool.config.target.name), checked.eos_ids),
            load(base),
            None if control is None else of_all(control),
            {
                task: adapted(adapters[name]) if name in adapters else load(name)
                for task, name in task_drafters(pool).items()
            },
        )

    def drafters(self, task: str) -> dict[str, Engine]:
        """For prompts of the task."""
        named = {"base": self.base, "task": self.of_task.get(task, self.base)}
        return named if self.control is None else {**named, "control": self.control}


@dataclass(frozen=True, slots=True)
class Hits:
    """One text of the target."""

    prompt: ToldPrompt
    num_positions: int
    num_equal: Mapping[str, int]
    """Positions where a drafter picks the target's token, by drafter."""


def count_hits(
    models: Models, prompts: Sequence[ToldPrompt], temperature: float, max_tokens: int
) -> list[Hits]:
    """Of every prompt's text."""
    tasks = sorted({prompt.task for prompt in prompts})
    batches = [
        own[at : at + _PER_BATCH]
        for own in ([prompt for prompt in prompts if prompt.task == task] for task in tasks)
        for at in range(0, len(own), _PER_BATCH)
    ]
    return [
        hits
        for batch in tqdm(batches, desc=f"agreement, T={temperature}", unit="batch", leave=False)
        for hits in _of_batch(models, batch, temperature, max_tokens)
    ]


def _of_batch(
    models: Models, prompts: Sequence[ToldPrompt], temperature: float, max_tokens: int
) -> list[Hits]:
    """Of prompts of one task."""
    draws = samplings_of(len(prompts), (temperature,), models.target.eos_ids, max_tokens)
    ids = [prompt.ids for prompt in prompts]
    texts = own_texts(models.target.engine, [prompt.task for prompt in prompts], ids, draws)
    picks = {
        drafter: picks_along(engine, texts, draws)
        for drafter, engine in models.drafters(prompts[0].task).items()
    }
    return [
        Hits(
            prompt,
            len(text.completion),
            {drafter: num_equal(text, rows[i]) for drafter, rows in picks.items()},
        )
        for i, (prompt, text) in enumerate(zip(prompts, texts, strict=True))
    ]


def summarise(hits: Sequence[Hits]) -> dict[str, Any]:
    """Agreement of each drafter, and that of the task's over the others', with intervals over
    prompts; of texts of one task, of one label, or of all."""
    num_positions = sum(one.num_positions for one in hits)
    equal = {drafter: [one.num_equal[drafter] for one in hits] for drafter in hits[0].num_equal}
    return {
        "num_prompts": len(hits),
        "num_positions": num_positions,
        "agreement": {drafter: sum(own) / num_positions for drafter, own in equal.items()},
        "task_over": {
            drafter: _gain(equal["task"], own)
            for drafter, own in equal.items()
            if drafter != "task"
        },
    }


def _gain(own: Sequence[int], others: Sequence[int]) -> dict[str, float] | None:
    interval = ratio_interval(own, others)
    return None if interval is None else asdict(interval)


def measure(
    models: Models, prompts: Sequence[ToldPrompt], temperature: float, max_tokens: int
) -> dict[str, Any]:
    """By task, as the classifier tells them, by label, and over all."""
    hits = count_hits(models, prompts, temperature, max_tokens)
    return {
        "by_task": _by(lambda prompt: prompt.task or "none", hits),
        "by_label": _by(lambda prompt: prompt.label, hits),
        "all": summarise(hits),
    }


def _by(name_of: Callable[[ToldPrompt], str], hits: Iterable[Hits]) -> dict[str, dict[str, Any]]:
    groups: dict[str, list[Hits]] = {}
    for one in hits:
        groups.setdefault(name_of(one.prompt), []).append(one)
    return {name: summarise(groups[name]) for name in sorted(groups)}
