"""How often a model picks the token that another one wrote, teacher-forced on its texts.

Both see the same text and, above temperature 0, the same noise, so that what the other one picks is
its text.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from transformers import LlamaForCausalLM

from specrouter_dist.align.data import Example, batches_by_length, pad

_TOKENS_PER_BATCH = 4096


@dataclass(frozen=True)
class Agreement:
    """Share of positions where the text's token is picked, per task."""

    per_task: dict[str, float]
    positions: int

    @property
    def mean(self) -> float:
        """Every task counts the same, however long its texts are."""
        return sum(self.per_task.values()) / len(self.per_task)


def num_equal(text: Example, picks: Sequence[int]) -> int:
    """Positions of the completion whose token is picked."""
    return sum(token == pick for token, pick in zip(text.completion, picks, strict=True))


def agreement(texts: Sequence[Example], picks: Sequence[Sequence[int]]) -> Agreement:
    """``picks``: of each text, one at every position of its completion."""
    equal: dict[str, int] = defaultdict(int)
    positions: dict[str, int] = defaultdict(int)
    for text, row in zip(texts, picks, strict=True):
        equal[text.task] += num_equal(text, row)
        positions[text.task] += len(row)
    per_task = {task: equal[task] / positions[task] for task in sorted(positions)}
    return Agreement(per_task, sum(positions.values()))


@torch.inference_mode()
def greedy_picks(model: LlamaForCausalLM, texts: Sequence[Example]) -> list[list[int]]:
    """What a model that is in training picks along the texts, at temperature 0."""
    found: dict[int, list[int]] = {}
    lengths, order = [len(text.tokens) for text in texts], np.random.default_rng(0)
    for group in batches_by_length(lengths, _TOKENS_PER_BATCH, order):
        tokens, predicts = pad([texts[i] for i in group])
        hidden = model.model(tokens).last_hidden_state[predicts]
        picks = model.lm_head(hidden).argmax(dim=-1)
        sizes = [len(texts[i].completion) for i in group]
        found |= {i: row.tolist() for i, row in zip(group, picks.split(sizes), strict=True)}
    return [found[i] for i in range(len(texts))]
