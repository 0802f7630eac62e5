"""The law of one session's rows, shaped as its request asks.

The order is vLLM's (v1): logit bias, penalties (repetition, frequency, presence), stop ids before
``min_tokens``, temperature, min-p, top-k, top-p; then the noise of the row's position is added. At
temperature 0 nothing comes after ``min_tokens``.
"""

import math
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from specrouter_dist.config import SamplingParams
from specrouter_dist.engine.decoder import Dice
from specrouter_dist.engine.interface import Extension
from specrouter_dist.engine.noise_torch import SessionNoise
from specrouter_dist.engine.penalties import Penalties
from specrouter_dist.engine.truncation import keep_min_p, keep_top_k, keep_top_p

_MAX_INVERSE_TEMPERATURE = 1e6
"""Below a temperature of 1e-6 the noise is lost in rounding anyway; float32 must not overflow."""


@dataclass(slots=True)
class Shaping:
    """How one session's rows are shaped, and what its noise is."""

    params: SamplingParams
    prompt_tokens: int
    plain: bool
    """Whether the pick is the argmax of the raw row."""
    reshapes: bool
    """Whether anything comes before temperature."""
    truncates: bool
    """Whether anything comes between temperature and noise."""
    noise: SessionNoise | None
    """None at temperature 0."""
    penalties: Penalties | None
    dice: Dice | None
    """Where there is nothing but temperature and noise."""
    bias_ids: Tensor
    bias: Tensor
    stop_ids: Tensor

    @classmethod
    def make(
        cls,
        params: SamplingParams,
        prompt_tokens: int,
        vocab_size: int,
        device: torch.device,
        *,
        noise: SessionNoise | None,
    ) -> Self:
        """Of a request whose output begins at position ``prompt_tokens``."""
        stop_ids = [i for i in params.stop_token_ids if i < vocab_size]
        reshapes = params.penalised or bool(params.logit_bias) or params.min_tokens > 0
        truncates = params.min_p > 0.0 or params.top_k > 0 or params.top_p < 1.0
        return cls(
            params=params,
            prompt_tokens=prompt_tokens,
            plain=params.greedy and not reshapes,
            reshapes=reshapes,
            truncates=truncates,
            noise=noise,
            penalties=Penalties(params, prompt_tokens, vocab_size, device)
            if params.penalised
            else None,
            dice=None if reshapes or (truncates and not params.greedy) else _dice(params),
            bias_ids=torch.tensor(list(params.logit_bias), dtype=torch.int64, device=device),
            bias=torch.tensor(list(params.logit_bias.values()), device=device),
            stop_ids=torch.tensor(stop_ids, dtype=torch.int64, device=device),
        )

    def score(self, scores: Tensor, rows: Any, extension: Extension) -> None:
        """Turns raw logits into what the argmax is taken of.

        Args:
            scores: float32 ``[num_picks, vocab_size]``, changed in place.
            rows: the same memory, an array on the CPU.
            extension: what was fed.
        """
        params = self.params
        if self.reshapes:
            self._reshape(scores, extension)
        if self.noise is not None and extension.num_picks:
            if params.temperature != 1.0:
                rows *= _inverse(params.temperature)
            if self.truncates:
                _truncate(scores, params)
            self.noise.add_to(rows, extension.first_pick)

    def laws(self, logits: Tensor, extension: Extension) -> Tensor:
        """Natural log-probabilities, float32 as ``logits``, before temperature: what may not be
        drawn has none."""
        laws = logits.to(torch.float32, copy=True)
        if self.reshapes:
            self._reshape(laws, extension)
        return torch.log_softmax(laws, dim=1)

    def _reshape(self, scores: Tensor, extension: Extension) -> None:
        """Logit bias, penalties and ``min_tokens``."""
        if self.params.logit_bias:
            scores.index_add_(1, self.bias_ids, self.bias.expand(len(scores), -1))
        if self.penalties is not None:
            _penalise(self.penalties, scores, extension)
        num_early = self.prompt_tokens + self.params.min_tokens - extension.first_pick
        if self.params.min_tokens and num_early > 0:
            scores[:num_early].index_fill_(1, self.stop_ids, -math.inf)


def _inverse(temperature: float) -> float:
    return min(1.0 / temperature, _MAX_INVERSE_TEMPERATURE)


def _dice(params: SamplingParams) -> Dice:
    return Dice(1.0, None) if params.greedy else Dice(_inverse(params.temperature), params.seed)


def _truncate(scores: Tensor, params: SamplingParams) -> None:
    if params.min_p > 0.0:
        keep_min_p(scores, params.min_p)
    if params.top_k > 0:
        keep_top_k(scores, params.top_k)
    if params.top_p < 1.0:
        keep_top_p(scores, params.top_p)


def _penalise(penalties: Penalties, scores: Tensor, extension: Extension) -> None:
    """Row by row: each row's counts include the tokens fed before its position."""
    penalties.truncate(extension.start)
    counted = len(extension.tokens) - extension.num_picks
    penalties.append(extension.tokens[:counted])
    for row, token in zip(scores, extension.tokens[counted:], strict=True):
        penalties.append((token,))
        penalties.apply(row)
