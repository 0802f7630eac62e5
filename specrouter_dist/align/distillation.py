"""Training a drafter to say what its target says."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from specrouter_dist.align.config import DistillationConfig
from specrouter_dist.align.data import batches_by_length, pad
from specrouter_dist.align.losses import buckets, forward_kl, total_variation
from specrouter_dist.align.samples import Lesson, read_lessons
from specrouter_dist.align.training import Progress, Trainer, TrainingTask


@dataclass(frozen=True)
class LessonBatch:
    """Padded texts, the positions that count, and the target's top tokens there."""

    tokens: Tensor
    predicts: Tensor
    top_ids: Tensor
    top_log_probs: Tensor


def lesson_batch(lessons: Sequence[Lesson]) -> LessonBatch:
    """Collate lessons; the target's rows follow the order of the marked positions."""
    tokens, predicts = pad([lesson.example for lesson in lessons])
    ids = np.concatenate([lesson.top.ids for lesson in lessons]).astype(np.int64)
    log_probs = np.concatenate([lesson.top.log_probs for lesson in lessons]).astype(np.float32)
    return LessonBatch(tokens, predicts, torch.from_numpy(ids), torch.from_numpy(log_probs))


def lesson_batches(
    folder: Path, tokens_per_batch: int, seed: int, epoch: int
) -> Iterator[LessonBatch]:
    """One epoch over all shards present when it begins."""
    lessons = read_lessons(folder)
    lengths = [len(lesson.example.tokens) for lesson in lessons]
    for group in batches_by_length(lengths, tokens_per_batch, np.random.default_rng((seed, epoch))):
        yield lesson_batch([lessons[i] for i in group])


def distillation_loss(
    student: LlamaForCausalLM,
    batch: LessonBatch,
    config: DistillationConfig,
    share: float,
    step: int,
) -> Tensor:
    """Forward KL during the first part of the run, then total variation at changing temperatures.

    The low temperatures make the drafter care for the target's first choice, which is all that
    counts in greedy decoding.
    """
    with torch.autocast("cpu", dtype=torch.bfloat16):
        hidden = student.model(batch.tokens, use_cache=False).last_hidden_state[batch.predicts]
        logits = student.lm_head(hidden)
    if share < config.kl_share:
        return forward_kl(buckets(logits.float(), batch.top_ids, batch.top_log_probs))
    temperature = config.temperatures[step % len(config.temperatures)]
    return total_variation(buckets(logits.float(), batch.top_ids, batch.top_log_probs, temperature))


def distil(
    student: LlamaForCausalLM,
    config: DistillationConfig,
    samples: Path,
    folder: Path,
    name: str,
    *,
    seed: int,
    score: Callable[[], float],
    on_score: Callable[[Progress], None] | None = None,
    patience: int | None = None,
) -> Progress:
    """Distil ``student`` in place from the shards in ``samples``, resuming from ``folder``.

    It ends early after ``patience`` scores in a row that are no better than the best.
    """

    def loss(batch: LessonBatch, share: float, step: int) -> tuple[Tensor, int]:
        tokens = int(batch.predicts.sum())
        return distillation_loss(student, batch, config, share, step), tokens

    task = TrainingTask(
        batches=lambda epoch: lesson_batches(
            samples, config.optimizer.tokens_per_batch, seed, epoch
        ),
        loss=loss,
        score=score,
    )
    return Trainer(student, task, config.optimizer, folder, name).run(patience, on_score)
