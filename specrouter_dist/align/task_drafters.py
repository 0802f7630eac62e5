"""A drafter for each task, or one for all, trained from a base drafter towards the target.

For each task the target continues its prompts, and what is trained of the base drafter (forms.py)
learns from that (distillation.py) for as long as it agrees ever better with the target on prompts
held out from it. Whatever it costs in cross-entropy: what counts is agreement (arXiv 2310.08461).

One drafter for all tasks is trained the same way on as many prompts of each: what is left between
it and the drafters of the tasks is what specialising itself brings.
"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, product
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict

from specrouter_dist.align.agreement import agreement, greedy_picks
from specrouter_dist.align.config import AlignmentConfig
from specrouter_dist.align.distillation import distil
from specrouter_dist.align.forms import Form, form_of
from specrouter_dist.align.generation import picks_along
from specrouter_dist.align.samples import (
    MAX_PROMPT,
    Teacher,
    make_samples,
    own_texts,
    samplings_of,
)
from specrouter_dist.align.students import put_back
from specrouter_dist.align.training import Progress
from specrouter_dist.engine.factory import load_engine
from specrouter_dist.errors import ConfigError, RequestError
from specrouter_dist.pools.checks import MemberReport, check_pool
from specrouter_dist.pools.loading import Pool

REPORTED_TEMPERATURES = (0.0, 0.8)

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
        pool: with all directories resolved; the drafters shall agree with its target.
        base: the drafter to begin with.
        out: gets a directory for each drafter or adapter, and ``training``.
    """

    pool: Pool
    base: str
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
        report, target = check_pool(_only(self.pool, self.base)), self.pool.config.target
        _check_trainable(report.member(self.base))
        context = min(report.member(name).context_tokens for name in (target.name, self.base))
        # Of one that fills the context there is nothing to continue.
        longest = min(MAX_PROMPT, context - 1)
        usable = {task: [t for t in own if len(t) <= longest] for task, own in prompts.items()}
        for task, own in usable.items():
            _check_enough(task, len(own), longest, self.config.held_out_prompts)
        groups = {POOLED: usable} if pooled else {task: {task: own} for task, own in usable.items()}
        forms = {name: self._form(name) for name in groups}
        engine = load_engine(
            target.model_copy(update={"context_tokens": context}),
            self.pool.directories[target.name],
            num_ids=report.num_ids,
            exact=self.pool.config.exact,
        )
        teacher = Teacher(engine, report.eos_ids)
        return [self._align(name, own, teacher, forms[name]) for name, own in groups.items()]

    def _form(self, name: str) -> Form:
        base, target = (
            self.pool.directories[name] for name in (self.base, self.pool.config.target.name)
        )
        form = form_of(self.config, name, base=base, target=target, out=self.out)
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

    def _align(self, name: str, prompts: ByTask, teacher: Teacher, form: Form) -> TaskReport:
        config, folder = self.config, self._training / name
        stopping, reported, learned = _split(prompts, config.held_out_prompts)
        make_samples(teacher, name, learned, folder / "samples", config)
        put_back(form.directory)
        drafter = form.begin()
        tasks = [task for task, own in stopping.items() for _ in own]
        draws = samplings_of(len(tasks), (0.0,), teacher.eos_ids, config.max_new_tokens)
        texts = own_texts(teacher.engine, tasks, [*chain(*stopping.values())], draws)

        def score() -> float:
            return agreement(texts, greedy_picks(drafter, texts)).mean

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
        if is_better:
            _check_written(form, folder)
        else:
            # What is there is of another training: this one has written nothing.
            shutil.rmtree(form.directory, ignore_errors=True)
        return TaskReport(
            task=name,
            num_prompts=len(learned),
            num_reported=sum(map(len, reported.values())),
            steps=progress.step,
            seconds=progress.seconds,
            agreement=self._compare(teacher, reported, form if is_better else None),
            directory=form.directory if is_better else None,
        )

    def _compare(self, teacher: Teacher, reported: ByTask, form: Form | None) -> list[Comparison]:
        """``form``: what was written; None: nothing, the base drafter stays."""
        (base,) = (member for member in self.pool.config.models if member.name == self.base)
        num_ids = teacher.engine.info.vocab_size
        first = load_engine(base, self.pool.directories[self.base], num_ids=num_ids, exact=False)
        second = first if form is None else form.engine(base, num_ids)
        found = []
        for (task, own), temperature in product(reported.items(), REPORTED_TEMPERATURES):
            draws = samplings_of(
                len(own), (temperature,), teacher.eos_ids, self.config.max_new_tokens
            )
            texts = own_texts(teacher.engine, [task] * len(own), own, draws)
            before, after = (
                agreement(texts, picks_along(engine, texts, draws)) for engine in (first, second)
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


def _only(pool: Pool, base: str) -> Pool:
    """The pool of that drafter and the target: no others are loaded."""
    members = tuple(m for m in pool.config.models if m.name in (base, pool.config.target.name))
    config = pool.config.model_copy(update={"members": members})
    return replace(
        pool, config=config, directories={m.name: pool.directories[m.name] for m in members}
    )


def _check_written(form: Form, folder: Path) -> None:
    if not form.directory.exists():
        raise ConfigError(
            f"{form.directory}: is missing, and its training has ended; remove "
            f"{folder / form.name}.pt as well to train it again"
        )


def _split(prompts: ByTask, num_held_out: int) -> tuple[ByTask, ByTask, list[Tokens]]:
    """What stops the training and what is reported on, so many of each task, and what is learned
    from: of several tasks as many of each, in turn."""
    stopping, reported = (
        {task: own[first : first + num_held_out] for task, own in prompts.items()}
        for first in (0, num_held_out)
    )
    rest = [own[2 * num_held_out :] for own in prompts.values()]
    return stopping, reported, [*chain(*zip(*rest, strict=False))]


def _check_enough(task: str, num_prompts: int, longest: int, num_held_out: int) -> None:
    if num_prompts <= 2 * num_held_out:
        raise RequestError(
            f"prompts: {num_prompts} of task {task!r} with at most {longest} tokens; more than "
            f"{2 * num_held_out} are needed, which are held out",
            field="prompts",
        )


def _check_trainable(base: MemberReport) -> None:
    """Whether what is trained of it is what :mod:`~specrouter_dist.align.students` knows."""
    if base.shape.model_type != "llama":
        raise ConfigError(
            f"--base: a drafter of model type 'llama' can be trained, {base.name!r} is "
            f"{base.shape.model_type!r}",
            field="base",
        )
