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
from transformers import LlamaForCausalLM

from benchmarks.statistics import ratio_interval
from benchmarks.told_prompts import ToldPrompt, task_drafters
from specrouter_dist.align.agreement import own_continuations, picks
from specrouter_dist.align.students import load_model
from specrouter_dist.pools.adapter_files import WEIGHTS
from specrouter_dist.pools.loading import Pool, lora_members

_PER_BATCH = 64
"""Prompts that the target continues at a time."""


@dataclass(frozen=True)
class Models:
    """What is compared."""

    target: LlamaForCausalLM
    base: LlamaForCausalLM
    control: LlamaForCausalLM | None
    of_task: Mapping[str, LlamaForCausalLM]

    @classmethod
    def load(cls, pool: Pool, base: str, control: Path | None) -> Self:
        """``control``: the directory of that drafter."""
        base_directory = pool.directories[base]
        adapters = {member.name: member for member in lora_members(pool)}
        of_task = {}
        for task, name in task_drafters(pool).items():
            if adapter := adapters.get(name):
                of_task[task] = _load(Path(adapter.adapter), pool.directories[adapter.of])
            else:
                of_task[task] = load_model(pool.directories[name])
        return cls(
            load_model(pool.directories[pool.config.target.name]),
            load_model(base_directory),
            None if control is None else _load(control, base_directory),
            of_task,
        )

    def drafters(self, task: str) -> dict[str, LlamaForCausalLM]:
        """For prompts of the task."""
        named = {"base": self.base, "task": self.of_task.get(task, self.base)}
        return named if self.control is None else {**named, "control": self.control}


def _load(directory: Path, base: Path) -> LlamaForCausalLM:
    """The drafter in ``directory``: a model, or an adapter on the one in ``base``."""
    if not (directory / WEIGHTS).exists():
        return load_model(directory)
    from specrouter_dist.align.adapters import load_adapter

    model = load_model(base)
    load_adapter(model, directory)
    return model


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
    # Counts are by what texts are called, so each is called differently.
    names = [str(number) for number in range(len(prompts))]
    ids = [prompt.ids for prompt in prompts]
    texts = own_continuations(models.target, names, ids, temperature, max_tokens)
    wanted = picks(models.target, texts, temperature)
    drafted = {
        drafter: picks(model, texts, temperature)
        for drafter, model in models.drafters(prompts[0].task).items()
    }
    return [
        Hits(
            prompts[int(name)],
            row.numel(),
            {drafter: int((found[name] == row).sum()) for drafter, found in drafted.items()},
        )
        for name, row in wanted.items()
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
