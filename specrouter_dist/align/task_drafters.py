"""A drafter for each task, or one for all, trained from a base drafter towards the target.

For each task the target continues its prompts, and what is trained of the base drafter (forms.py)
learns from that (distillation.py) for as long as it agrees ever better with the target on prompts
held out from it. Whatever it costs in cross-entropy: what counts is agreement (arXiv 2310.08461).

One drafter for all tasks is trained the same way on as many prompts of each: what is left between
it and the drafters of the tasks is what specialising itself brings.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, product
from pathlib import Path

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict
from tqdm import tqdm
from transformers import LlamaConfig, LlamaForCausalLM

from specrouter_dist.align.agreement import agreement, own_continuations, picks
from specrouter_dist.align.config import AlignmentConfig
from specrouter_dist.align.data import Example
from specrouter_dist.align.distillation import distil
from specrouter_dist.align.forms import form_of
from specrouter_dist.align.generation import BatchGenerator, fastest_dtype
from specrouter_dist.align.samples import (
    MAX_PROMPT,
    TEMPERATURE_MIX,
    continue_prompts,
    write_shard,
)
from specrouter_dist.align.students import load_model
from specrouter_dist.align.training import Progress
from specrouter_dist.errors import ConfigError, RequestError

REPORTED_TEMPERATURES = (0.0, 0.8)
_MOST_IDS = 1 << 16
"""Samples keep ids in 16 bits."""

POOLED = "pooled"
"""What the one drafter for all tasks is called."""

Tokens = Sequence[int]
ByTask = Mapping[str, Sequence[Tokens]]


class Comparison(BaseModel):
    """How often two drafters pick the target's token, on its texts of the held-out prompts."""

    model_config = ConfigDict(frozen=True)

    task: str
    """Of the prompts."""
    temperature: float
    before: float
    """Of the base drafter."""
    after: float
    positions: int


class TaskReport(BaseModel):
    """What training one drafter came to."""

    model_config = ConfigDict(frozen=True)

    task: str
    """Or ``POOLED``."""
    num_prompts: int
    """To learn from; too long ones are not among them."""
    num_reported: int
    """Prompts that neither trained nor stopped it; ``agreement`` is on these."""
    steps: int
    seconds: float
    """Of training."""
    agreement: list[Comparison]
    directory: Path | None
    """Of the drafter or its adapter; None: none was better than the base drafter."""


@dataclass(frozen=True)
class Aligner:
    """The models and folders of one alignment.

    Attributes:
        target: directory of the model to agree with.
        base: directory of the drafter to begin with.
        out: gets a directory for each drafter or adapter, and ``training``.
    """

    target: Path
    base: Path
    out: Path
    config: AlignmentConfig

    def align(self, prompts: ByTask, *, pooled: bool = False) -> list[TaskReport]:
        """Trains a drafter for each task, going on where an earlier call was ended.

        Args:
            prompts: token ids by task; of each task the first are held out, so many to stop the
                training and so many more to report on: the best of many scores flatters itself.
            pooled: trains one drafter instead, on as many prompts of each task.

        Raises:
            ConfigError: models that cannot be trained here.
            RequestError: a task has too few prompts.
        """
        if self.config.threads is not None:
            torch.set_num_threads(self.config.threads)
        usable = {task: [t for t in own if len(t) <= MAX_PROMPT] for task, own in prompts.items()}
        for task, own in usable.items():
            _check_enough(task, len(own), self.config.held_out_prompts)
        _check_trainable(LlamaConfig.from_pretrained(self.target))
        target = load_model(self.target)
        if pooled:
            return [self._align(POOLED, usable, target)]
        return [self._align(task, {task: own}, target) for task, own in usable.items()]

    def _align(self, name: str, prompts: ByTask, target: LlamaForCausalLM) -> TaskReport:
        config, folder = self.config, self.out / "training" / name
        stopping, reported, learned = _split(prompts, config.held_out_prompts)
        make_samples(target, name, learned, folder / "samples", config)
        form = form_of(config, name, base=self.base, target=self.target, out=self.out)
        drafter = form.begin()
        tasks = [task for task, own in stopping.items() for _ in own]
        texts = own_continuations(
            target, tasks, [*chain(*stopping.values())], 0.0, config.max_new_tokens
        )
        wanted = picks(target, texts, 0.0)

        def score() -> float:
            return agreement(wanted, picks(drafter, texts, 0.0)).mean

        before = score()

        def keep_better(progress: Progress) -> None:
            if progress.stale == 0 and progress.best > before:
                form.save(drafter)

        progress = distil(
            drafter,
            config.distillation,
            folder / "samples",
            folder,
            form.name,
            seed=config.seed,
            score=score,
            on_score=keep_better,
            patience=config.patience,
        )
        is_better = form.directory.exists()
        return TaskReport(
            task=name,
            num_prompts=len(learned),
            num_reported=sum(map(len, reported.values())),
            steps=progress.step,
            seconds=progress.seconds,
            agreement=self._compare(
                target, reported, form.load() if is_better else load_model(self.base)
            ),
            directory=form.directory if is_better else None,
        )

    def _compare(
        self, target: LlamaForCausalLM, reported: ByTask, second: LlamaForCausalLM
    ) -> list[Comparison]:
        """``second``: as written to disk, that is in the precision that serves."""
        first = load_model(self.base)
        found = []
        for (task, own), temperature in product(reported.items(), REPORTED_TEMPERATURES):
            tasks, limit = [task] * len(own), self.config.max_new_tokens
            texts: list[Example] = own_continuations(target, tasks, own, temperature, limit)
            wanted = picks(target, texts, temperature)
            before, after = (
                agreement(wanted, picks(model, texts, temperature)) for model in (first, second)
            )
            found.append(
                Comparison(
                    task=task,
                    temperature=temperature,
                    before=before.mean,
                    after=after.mean,
                    positions=after.positions,
                )
            )
        return found


def _split(prompts: ByTask, num_held_out: int) -> tuple[ByTask, ByTask, list[Tokens]]:
    """What stops the training and what is reported on, so many of each task, and what is learned
    from: of several tasks as many of each, in turn."""
    stopping, reported = (
        {task: own[first : first + num_held_out] for task, own in prompts.items()}
        for first in (0, num_held_out)
    )
    rest = [own[2 * num_held_out :] for own in prompts.values()]
    return stopping, reported, [*chain(*zip(*rest, strict=False))]


def make_samples(
    target: LlamaForCausalLM,
    task: str,
    prompts: Sequence[Tokens],
    folder: Path,
    config: AlignmentConfig,
) -> None:
    """Makes the shards that are missing of what the target writes after the task's prompts."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = BatchGenerator(target, fastest_dtype())
    for number in tqdm(range(config.shards), desc=f"{task}: samples", unit="shard"):
        path = folder / f"{number:04d}.npz"
        if path.exists():
            continue
        size = min(config.prompts_per_shard, len(prompts))
        order = np.random.default_rng((config.seed, number))
        chosen = [prompts[i] for i in order.choice(len(prompts), size, replace=False)]
        lessons = continue_prompts(
            generator,
            [task] * size,
            chosen,
            TEMPERATURE_MIX,
            config.max_new_tokens,
            config.seed + number,
        )
        write_shard(path, lessons)


def _check_enough(task: str, num_prompts: int, num_held_out: int) -> None:
    if num_prompts <= 2 * num_held_out:
        raise RequestError(
            f"prompts: {num_prompts} of task {task!r} with at most {MAX_PROMPT} tokens; more than "
            f"{2 * num_held_out} are needed, which are held out",
            field="prompts",
        )


def _check_trainable(target: LlamaConfig) -> None:
    """What the generator of samples can run, and samples can hold."""
    has_all_heads = target.num_key_value_heads == target.num_attention_heads
    if target.model_type != "llama" or not has_all_heads or target.vocab_size > _MOST_IDS:
        raise ConfigError(
            "tasks align: a target of type 'llama' with as many key-value heads as heads and at "
            f"most {_MOST_IDS} ids is needed, got {target.model_type!r} with "
            f"{target.num_key_value_heads} of {target.num_attention_heads} heads and "
            f"{target.vocab_size} ids"
        )
