"""Repetition, presence and frequency penalties that roll back with the session."""

from array import array
from collections.abc import Sequence

import torch
from torch import Tensor

from specrouter_dist.config import SamplingParams
from specrouter_dist.speculation.messages import TOKEN_TYPECODE


class Penalties:
    """How often each id occurs in one session's tokens, and what that does to a row of logits.

    The repetition penalty counts prompt and output, the other two the output only (vLLM's
    meanings).

    Args:
        sampling: the session's parameters.
        prompt_tokens: position at which the output begins.
        vocab_size: length of a row.
        device: of the rows.
    """

    def __init__(
        self, sampling: SamplingParams, prompt_tokens: int, vocab_size: int, device: torch.device
    ) -> None:
        self._sampling = sampling
        self._prompt_tokens = prompt_tokens
        self._tokens = array(TOKEN_TYPECODE)
        self._in_prompt = torch.zeros(vocab_size, dtype=torch.float32, device=device)
        self._in_output = torch.zeros(vocab_size, dtype=torch.float32, device=device)

    def fork(self, length: int) -> "Penalties":
        """The penalties of a session with the first ``length`` tokens of this one."""
        vocab_size, device = self._in_output.shape[0], self._in_output.device
        copy = Penalties(self._sampling, self._prompt_tokens, vocab_size, device)
        copy.append(self._tokens[:length])
        return copy

    def truncate(self, length: int) -> None:
        """Forgets the tokens from position ``length`` on."""
        assert length <= len(self._tokens), f"{length} of {len(self._tokens)} tokens known"
        if length < len(self._tokens):
            self._count(length, self._tokens[length:], -1.0)
            del self._tokens[length:]

    def append(self, tokens: Sequence[int]) -> None:
        """Counts the next tokens of the session."""
        self._count(len(self._tokens), tokens, 1.0)
        self._tokens.extend(tokens)

    def apply(self, row: Tensor) -> None:
        """Changes float32 ``row[vocab_size]``, the logits after the tokens appended so far."""
        sampling = self._sampling
        if sampling.repetition_penalty != 1.0:
            seen = (self._in_prompt + self._in_output) > 0
            penalty = sampling.repetition_penalty
            lowered = torch.where(row > 0, row / penalty, row * penalty)
            torch.where(seen, lowered, row, out=row)
        # A product and a difference, never fused: the rounding must not depend on the shape.
        if sampling.frequency_penalty != 0.0:
            row.sub_(self._in_output * sampling.frequency_penalty)
        if sampling.presence_penalty != 0.0:
            row.sub_((self._in_output > 0) * sampling.presence_penalty)

    def _count(self, start: int, tokens: Sequence[int], weight: float) -> None:
        in_prompt = max(0, min(len(tokens), self._prompt_tokens - start))
        for counts, ids in (
            (self._in_prompt, tokens[:in_prompt]),
            (self._in_output, tokens[in_prompt:]),
        ):
            if ids:
                index = torch.tensor(ids, dtype=torch.int64, device=counts.device)
                ones = torch.full((len(ids),), weight, dtype=torch.float32, device=counts.device)
                counts.index_add_(0, index, ones)
