"""How often two models pick the same token, teacher-forced on what one of them wrote.

Both see the same text and, above temperature 0, the same Gumbel noise: pick = argmax(logits / T +
g).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from specrouter_dist.align.data import Example, batches_by_length, pad
from specrouter_dist.align.generation import BatchGenerator
from specrouter_dist.align.samples import continue_prompts

_TOKENS_PER_BATCH = 4096


@dataclass(frozen=True)
class Agreement:
    """Share of positions with equal picks, per task, and the mean over tasks."""

    per_task: dict[str, float]
    positions: int

    @property
    def mean(self) -> float:
        """Every task counts the same, however long its texts are."""
        return sum(self.per_task.values()) / len(self.per_task)


def own_continuations(
    model: LlamaForCausalLM,
    tasks: Sequence[str],
    prompts: Sequence[Sequence[int]],
    temperature: float,
    max_new: int,
    seed: int = 0,
) -> list[Example]:
    """What ``model`` writes after each prompt, in float32."""
    lessons = continue_prompts(BatchGenerator(model), tasks, prompts, (temperature,), max_new, seed)
    return [lesson.example for lesson in lessons]


Picks = dict[str, Tensor]
"""Picked token ids of each task's completion positions, in a fixed order."""


def picks(
    model: LlamaForCausalLM, texts: Sequence[Example], temperature: float, seed: int = 0
) -> Picks:
    """What ``model`` picks at every completion position; the noise depends on ``seed`` alone."""
    noise = torch.Generator().manual_seed(seed)
    found: dict[str, list[Tensor]] = defaultdict(list)
    for task, tokens, predicts in _by_task(texts):
        logits = _logits(model, tokens, predicts)
        if temperature > 0:
            gumbel = torch.empty_like(logits).exponential_(generator=noise).log_().neg_()
            logits = logits / temperature + gumbel
        found[task].append(logits.argmax(dim=-1))
    return {task: torch.cat(found[task]) for task in found}


def agreement(first: Picks, second: Picks) -> Agreement:
    """Compare the picks of two models on the same texts, temperature and seed."""
    per_task = {task: float((first[task] == second[task]).float().mean()) for task in first}
    return Agreement(per_task, sum(row.numel() for row in first.values()))


def _by_task(texts: Sequence[Example]) -> Iterator[tuple[str, Tensor, Tensor]]:
    order = np.random.default_rng(0)
    for task in sorted({text.task for text in texts}):
        chosen = [text for text in texts if text.task == task]
        for group in batches_by_length(
            [len(text.tokens) for text in chosen], _TOKENS_PER_BATCH, order
        ):
            tokens, predicts = pad([chosen[i] for i in group])
            yield task, tokens, predicts


@torch.inference_mode()
def _logits(model: LlamaForCausalLM, tokens: Tensor, predicts: Tensor) -> Tensor:
    hidden = model.model(tokens).last_hidden_state[predicts]
    logits: Tensor = model.lm_head(hidden).float()
    return logits
