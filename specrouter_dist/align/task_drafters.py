"""A drafter for each task, or one for all, trained from a base drafter towards the target.

For each task the target continues its prompts, and what is trained of the base drafter (forms.py)
learns from that (distillation.py) for as long as it agrees ever better with the target on prompts
held out from it. Whatever it costs in cross-entropy: what counts is agreement (arXiv 2310.08461).

One drafter for all tasks is trained the same way on as many prompts of each: what is left between
it and the drafters of the tasks is what specialising itself brings.
"""

import shutil
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
from specrouter_dist.align.forms import Form, form_of
from specrouter_dist.align.generation import BatchGenerator, check_computed, fastest_dtype
from specrouter_dist.align.samples import (
    MAX_PROMPT,
    TEMPERATURE_MIX,
    continue_prompts,
    write_shard,
)
from specrouter_dist.align.students import load_model, put_back
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
            ConfigError: models that cannot be trained here, or a task whose drafter has no place.
            RequestError: a task has too few prompts.
        """
        if self.config.threads is not None:
            torch.set_num_threads(self.config.threads)
        shape = LlamaConfig.from_pretrained(self.target)
        _check_trainable(shape)
        # Of one that fills the context there is nothing to continue.
        longest = min(MAX_PROMPT, shape.max_position_embeddings - 1)
        usable = {task: [t for t in own if len(t) <= longest] for task, own in prompts.items()}
        for task, own in usable.items():
            _check_enough(task, len(own), longest, self.config.held_out_prompts)
        groups = {POOLED: usable} if pooled else {task: {task: own} for task, own in usable.items()}
        forms = {name: self._form(name) for name in groups}
        target = load_model(self.target)
        return [self._align(name, own, target, forms[name]) for name, own in groups.items()]

    def _form(self, name: str) -> Form:
        form = form_of(self.config, name, base=self.base, target=self.target, out=self.out)
        if form.directory == self._training:
            raise ConfigError(
                f"form {self.config.form!r}: the drafter of task {name!r} would lie in "
                f"{str(form.directory)!r}, where all are trained; accepted: 'layers' or 'lora'",
                field="form",
            )
        return form

    @property
    def _training(self) -> Path:
        return self.out / "training"

    def _align(
        self, name: str, prompts: ByTask, target: LlamaForCausalLM, form: Form
    ) -> TaskReport:
        config, folder = self.config, self._training / name
        stopping, reported, learned = _split(prompts, config.held_out_prompts)
        make_samples(target, name, learned, folder / "samples", config)
        put_back(form.directory)
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
        is_better = progress.best > before
        second = self._trained(form, folder) if is_better else self._untrained(form)
        return TaskReport(
            task=name,
            num_prompts=len(learned),
            num_reported=sum(map(len, reported.values())),
            steps=progress.step,
            seconds=progress.seconds,
            agreement=self._compare(target, reported, second),
            directory=form.directory if is_better else None,
        )

    def _trained(self, form: Form, folder: Path) -> LlamaForCausalLM:
        if not form.directory.exists():
            raise ConfigError(
                f"{form.directory}: is missing, and its training has ended; remove "
                f"{folder / form.name}.pt as well to train it again"
            )
        return form.load()

    def _untrained(self, form: Form) -> LlamaForCausalLM:
        # What is there is of another training: this one has written nothing.
        shutil.rmtree(form.directory, ignore_errors=True)
        return load_model(self.base)

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


def _check_enough(task: str, num_prompts: int, longest: int, num_held_out: int) -> None:
    if num_prompts <= 2 * num_held_out:
        raise RequestError(
            f"prompts: {num_prompts} of task {task!r} with at most {longest} tokens; more than "
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
    check_computed(target)
