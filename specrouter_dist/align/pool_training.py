"""The recipe of the embedded pool: target, samples of it, two drafters, their agreement."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict
from tokenizers import Tokenizer
from transformers import LlamaConfig, LlamaForCausalLM

from specrouter_dist.align.agreement import agreement, greedy_picks
from specrouter_dist.align.config import PoolTrainingConfig, StudentConfig
from specrouter_dist.align.curves import draw_curves
from specrouter_dist.align.data import (
    Example,
    Row,
    encode_examples,
    read_rows,
    rows_per_task,
)
from specrouter_dist.align.distillation import distil
from specrouter_dist.align.generation import picks_along
from specrouter_dist.align.samples import (
    Teacher,
    make_shards,
    own_texts,
    samplings_of,
    short_prompts,
)
from specrouter_dist.align.students import (
    check_can_grow,
    copy_tokenizer,
    cut_student,
    grown_student,
    load_model,
    save_member,
)
from specrouter_dist.align.target_training import new_target, train_target, train_tokenizer
from specrouter_dist.align.training import Progress
from specrouter_dist.config import ModelMember, SamplingParams
from specrouter_dist.engine.factory import load_engine
from specrouter_dist.engine.interface import Engine
from specrouter_dist.pools.model_files import read_eos_ids

REPORTED_TEMPERATURES = (0.0, 0.8)
REPORTED_PAIRS = (("small", "target"), ("medium", "target"), ("small", "medium"))
_MAX_TEXT = 512  # tokens of one training text


class PairAgreement(BaseModel):
    """How often a drafter picks the token of the model below it, on what that model writes."""

    model_config = ConfigDict(frozen=True)

    drafter: str
    verifier: str
    temperature: float
    mean: float
    per_task: dict[str, float]
    positions: int


class StageReport(BaseModel):
    """What one training stage did, earlier runs it resumed included."""

    model_config = ConfigDict(frozen=True)

    steps: int
    tokens: int
    seconds: float
    best_dev_score: float


class PoolTrainingReport(BaseModel):
    """What was trained and how well its members agree on dev prompts."""

    model_config = ConfigDict(frozen=True)

    stages: dict[str, StageReport]
    sampled_tokens: int
    agreement: list[PairAgreement]
    curves: Path | None


@dataclass(frozen=True)
class _Run:
    """The folders and data one call of ``train_pool`` works on."""

    config: PoolTrainingConfig
    train: Sequence[Row]
    dev: Sequence[Row]
    pool: Path

    @property
    def work(self) -> Path:
        """Checkpoints, samples and logs."""
        return self.pool / "training"

    @property
    def target(self) -> Path:
        return self.pool / "target"

    def tokenizer(self) -> Tokenizer:
        return Tokenizer.from_file(str(self.target / "tokenizer.json"))


def train_pool(config: PoolTrainingConfig, data_dir: Path, out_dir: Path) -> PoolTrainingReport:
    """Run the chosen stages; write ``out_dir/{target,medium,small}``, resuming what was begun.

    ``data_dir`` holds ``train.jsonl.gz`` and ``dev.jsonl.gz``; nothing is trained on dev.
    Checkpoints, samples and logs lie in ``out_dir/training``.
    """
    _check_starts(config)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    run = _Run(
        config,
        read_rows(data_dir / "train.jsonl.gz"),
        read_rows(data_dir / "dev.jsonl.gz"),
        out_dir,
    )
    run.work.mkdir(parents=True, exist_ok=True)
    stages: dict[str, Progress] = {}
    target = _prepare_target(run, stages)
    sampled = _sample(run) if "samples" in config.stages else 0
    for name in ("medium", "small"):
        if name in config.stages:
            stages[name] = _distil(run, target, name, getattr(config, name))
    return PoolTrainingReport(
        stages={name: _stage_report(progress) for name, progress in stages.items()},
        sampled_tokens=sampled,
        agreement=evaluate_pool(out_dir, run.dev, config),
        curves=draw_curves(run.work),
    )


def _stage_report(progress: Progress) -> StageReport:
    return StageReport(
        steps=progress.step,
        tokens=progress.tokens,
        seconds=progress.seconds,
        best_dev_score=progress.best,
    )


def _prepare_target(run: _Run, stages: dict[str, Progress]) -> LlamaForCausalLM:
    """The trained target; it is loaded where its stage is left out."""
    config = run.config
    start = None if config.init_from is None else config.init_from / "target"
    if not (run.target / "tokenizer.json").exists():
        if start is None:
            train_tokenizer(run.train, run.target)
        else:
            copy_tokenizer(start, run.target)
    if "target" not in config.stages:
        if not (run.target / "model.safetensors").exists() and start is not None:
            save_member(load_model(start), start, run.target)
        return load_model(run.target)
    tokenizer = run.tokenizer()
    model = (
        new_target(config.target, tokenizer.get_vocab_size())
        if start is None
        else load_model(start)
    )
    train, dev = (
        encode_examples(tokenizer, rows, config.chat_fraction, _MAX_TEXT)
        for rows in (run.train, run.dev)
    )
    stages["target"] = train_target(model, config.target, train, dev, run.work, config.seed)
    save_member(model, run.target, run.target)
    return load_model(run.target)


def _served(directory: Path) -> Engine:
    """A member of the pool, as a pool file without settings has it."""
    member = ModelMember(name="member", role="target", model=str(directory))
    return load_engine(member, directory, num_ids=None, exact=True)


def _sample(run: _Run) -> int:
    return make_shards(
        Teacher(_served(run.target), read_eos_ids(run.target)),
        run.tokenizer(),
        run.train,
        run.work / "samples",
        count=run.config.samples.shards,
        max_new=run.config.samples.max_new_tokens,
        chat_fraction=run.config.chat_fraction,
        seed=run.config.seed,
    )


def _start_of(config: PoolTrainingConfig, name: str) -> Path | None:
    """The drafter of ``init_from`` that training begins with, if there is one."""
    folder = None if config.init_from is None else config.init_from / name
    return folder if folder is not None and (folder / "config.json").exists() else None


def _check_starts(config: PoolTrainingConfig) -> None:
    """Hours before they are needed."""
    for name in ("medium", "small"):
        start = _start_of(config, name)
        if name in config.stages and start is not None:
            check_can_grow(LlamaConfig.from_pretrained(start), getattr(config, name))


def _distil(run: _Run, target: LlamaForCausalLM, name: str, shape: StudentConfig) -> Progress:
    start = _start_of(run.config, name)
    student = (
        cut_student(target, shape) if start is None else grown_student(load_model(start), shape)
    )
    folder = run.pool / name

    def save(progress: Progress) -> None:
        save_member(student, run.target, folder)

    texts, _ = _dev_texts(_served(run.target), run.pool, run.dev, run.config, temperature=0.0)
    return distil(
        student,
        shape,
        run.work / "samples",
        run.work,
        name,
        seed=run.config.seed,
        score=lambda: agreement(texts, greedy_picks(student, texts)).mean,
        on_score=save,
    )


def _dev_texts(
    verifier: Engine,
    pool: Path,
    dev: Sequence[Row],
    config: PoolTrainingConfig,
    *,
    temperature: float,
) -> tuple[list[Example], list[SamplingParams]]:
    """What ``verifier`` writes after the first dev prompts of each task, and how it is drawn."""
    tokenizer = Tokenizer.from_file(str(pool / "target" / "tokenizer.json"))
    rows = rows_per_task(dev, config.dev_prompts_per_task)
    tasks, prompts = short_prompts(tokenizer, rows, config.chat_fraction)
    ends, max_new = read_eos_ids(pool / "target"), config.samples.max_new_tokens
    draws = samplings_of(len(prompts), (temperature,), ends, max_new)
    return own_texts(verifier, tasks, prompts, draws), draws


def evaluate_pool(
    pool: Path, dev: Sequence[Row], config: PoolTrainingConfig
) -> list[PairAgreement]:
    """Agreement of every pair that exists, as written to disk, at each reported temperature."""
    names = {name for pair in REPORTED_PAIRS for name in pair}
    engines = {
        name: _served(pool / name) for name in names if (pool / name / "config.json").exists()
    }
    found = []
    for drafter, verifier in REPORTED_PAIRS:
        if drafter not in engines or verifier not in engines:
            continue
        for temperature in REPORTED_TEMPERATURES:
            texts, draws = _dev_texts(engines[verifier], pool, dev, config, temperature=temperature)
            pair = agreement(texts, picks_along(engines[drafter], texts, draws))
            found.append(
                PairAgreement(
                    drafter=drafter,
                    verifier=verifier,
                    temperature=temperature,
                    mean=pair.mean,
                    per_task=pair.per_task,
                    positions=pair.positions,
                )
            )
    return found
