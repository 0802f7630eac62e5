"""From logits to tokens: the model's law, shaped as the request asks, and the shared dice.

Log-probabilities are those of the raw row; then the row is shaped (shaping.py), the noise of its
position is added, and the highest score wins, the lowest id among equals.

Every operation works row by row with the same rounding whatever else is in the batch, so a pick
is a function of its row, its position and the session's tokens.
"""

from array import array
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from specrouter_dist.config import SamplingParams
from specrouter_dist.engine.cpu.library import Library, dice_of, find_library
from specrouter_dist.engine.decoder import Dice
from specrouter_dist.engine.interface import Extension, Picks, TokenLogprobs
from specrouter_dist.engine.noise_torch import NoiseSource, SessionNoise
from specrouter_dist.engine.readings import (
    read_followers,
    read_logprobs,
    read_runner_ups,
    read_sparse_rows,
    read_weights,
)
from specrouter_dist.engine.shaping import Shaping
from specrouter_dist.errors import RequestError
from specrouter_dist.speculation.messages import TOKEN_TYPECODE, TokenArray

_LEAST_WORK_ROWS = 8


class ScoreRows:
    """Room for the scores of one draw, as many rows as the largest has needed so far."""

    def __init__(self, vocab_size: int, device: torch.device) -> None:
        self._vocab_size = vocab_size
        self._device = device
        self._grow(_LEAST_WORK_ROWS)

    def copy(self, logits: Tensor) -> Tensor:
        """The logits as float32, until the next call."""
        num_rows = logits.shape[0]
        if num_rows > len(self._rows):
            self._grow(num_rows)
        return self._rows[:num_rows].copy_(logits)

    def _grow(self, num_rows: int) -> None:
        self._rows = torch.empty((num_rows, self._vocab_size), device=self._device)
        self.noise_rows: Any = self._rows.numpy() if self._device.type == "cpu" else self._rows
        """The same memory as :class:`SessionNoise` wants to have it."""


def _is_direct(session: Shaping, extension: Extension) -> bool:
    """Whether nothing but the best of a row is wanted of it."""
    return session.dice is not None and not extension.num_runner_ups


def _is_plain_memory(logits: Tensor) -> bool:
    """Whether rows of float32 lie one behind the other."""
    return logits.dtype == torch.float32 and logits.is_contiguous()


class Sampler:
    """Draws the tokens of all sessions of one engine.

    Args:
        vocab_size: ids that may be drawn, the width of the logits.
        max_sessions: how many slots are open at once; bounds the noise kept for each.
        device: of the logits.
        beside: a sampler that never draws while this one does; both use its memory.
    """

    def __init__(
        self,
        vocab_size: int,
        max_sessions: int,
        device: torch.device,
        beside: "Sampler | None" = None,
    ) -> None:
        self._vocab_size = vocab_size
        self._max_sessions = max_sessions
        self._device = device
        noise = beside._noise if beside else NoiseSource(vocab_size, max_sessions, device)
        self._noise: NoiseSource = noise
        self._sessions: dict[int, Shaping] = {}
        self._library = find_library() if device.type == "cpu" else None
        self._work: ScoreRows = beside._work if beside else ScoreRows(vocab_size, device)

    def of_member(self, name: str) -> "Sampler":
        """One for the laws of another member of the same worker, over the same ids and as many
        sessions."""
        return Sampler(self._vocab_size, self._max_sessions, self._device, self)

    def open(
        self,
        slot: int,
        params: SamplingParams,
        prompt_tokens: int,
        *,
        beside: "Sampler | None" = None,
    ) -> None:
        """Begins a session in ``slot``, whose output begins at position ``prompt_tokens``.

        ``beside``: has the same request's session in the same slot; the noise is shared.

        Raises:
            RequestError: ``logit_bias`` names an id outside the vocabulary.
        """
        assert slot not in self._sessions, f"slot {slot} is open"
        if params.logit_bias and max(params.logit_bias) >= self._vocab_size:
            raise RequestError(
                f"logit_bias: ids must be below {self._vocab_size}, got {max(params.logit_bias)}",
                field="logit_bias",
            )
        noise = None if beside is None else beside._sessions[slot].noise
        self._sessions[slot] = self._make_session(params, prompt_tokens, noise)

    def fork(self, slot: int, new_slot: int, length: int) -> None:
        """Begins a session in ``new_slot`` with the first ``length`` tokens of ``slot``'s."""
        assert new_slot not in self._sessions, f"slot {new_slot} is open"
        origin = self._sessions[slot]
        # The noise is the same, and dear to make: both keep it in one place.
        session = self._make_session(origin.params, origin.prompt_tokens, origin.noise)
        if origin.penalties is not None:
            session.penalties = origin.penalties.fork(length)
        self._sessions[new_slot] = session

    def resume(self, slot: int, tokens: TokenArray) -> None:
        """The session begins with ``tokens``, which are not fed: penalties count them."""
        penalties = self._sessions[slot].penalties
        if penalties is not None:
            penalties.append(tokens)

    def follow(self, slot: int, start: int, tokens: TokenArray) -> None:
        """``tokens`` are the session's from position ``start`` on, fed by another."""
        penalties = self._sessions[slot].penalties
        if penalties is not None:
            penalties.truncate(start)
            penalties.append(tokens)

    def close(self, slot: int) -> None:
        """Forgets the session in ``slot``."""
        del self._sessions[slot]

    def draw(self, logits: Tensor, batch: Sequence[Extension]) -> list[Picks]:
        """The picks of every extension, in order.

        ``num_drafts`` is the engine's business: for each draft it calls again with the extension
        of one token that it fed.

        Args:
            logits: float32 or bfloat16 ``[num_rows, vocab_size]``, without gradient: in the
                order of the batch, ``num_picks`` rows for each extension. Not changed.
            batch: every extension that was fed, also those without picks, since penalties
                count what was fed.
        """
        sessions = [self._sessions[extension.slot] for extension in batch]
        scores = logits
        library = self._library if _is_plain_memory(logits) else None
        if library is not None and all(map(_is_direct, sessions, batch)):
            ids = self._pick(logits, batch, sessions, library)
        else:
            if not all(session.plain for session in sessions):
                scores = self._score(logits, batch, sessions)
            ids = self._best(scores)
        picks = []
        row = 0
        for extension, session in zip(batch, sessions, strict=True):
            stop = row + extension.num_picks
            tokens = array(TOKEN_TYPECODE, ids[row:stop])
            num_top = session.params.logprobs
            num_more = extension.num_runner_ups if tokens else 0
            runner_ups, gaps = (
                read_runner_ups(scores[row:stop], tokens, num_more, self._best)
                if num_more
                else ((), ())
            )
            picks.append(
                Picks(
                    tokens,
                    () if num_top is None else read_logprobs(logits[row:stop], tokens, num_top),
                    runner_ups,
                    gaps,
                    read_sparse_rows(logits[[row + i for i in extension.sparse_rows]])
                    if extension.sparse_rows
                    else None,
                    weights=read_weights(
                        session.laws(logits[row:stop], extension), extension.weighed, tokens
                    )
                    if extension.weighed
                    else (),
                )
            )
            row = stop
        assert row == len(ids), f"{len(ids)} rows of logits for {row} picks"
        return picks

    def read_followers(
        self, extension: Extension, logits_of: Callable[[int, int], Tensor]
    ) -> tuple[TokenLogprobs, ...]:
        """Log-probabilities of the extension's followers.

        Args:
            extension: of a session whose parameters say ``prompt_logprobs``.
            logits_of: the logits after the fed tokens ``[first, stop)``, counted from 0.
        """
        num_top = self._sessions[extension.slot].params.prompt_logprobs
        assert num_top is not None, "followers are read where prompt_logprobs are asked for"
        return read_followers(logits_of, extension.followers, num_top)

    def _score(
        self, logits: Tensor, batch: Sequence[Extension], sessions: Sequence[Shaping]
    ) -> Tensor:
        scores = self._work.copy(logits)
        row = 0
        for extension, session in zip(batch, sessions, strict=True):
            stop = row + extension.num_picks
            part = scores if stop - row == len(scores) else scores[row:stop]
            session.score(part, self._work.noise_rows[row:stop], extension)
            row = stop
        return scores

    def dice(self, slot: int) -> Dice | None:
        """How the session's next tokens are drawn where nothing of their law is asked for; None:
        by :meth:`draw` alone."""
        session = self._sessions[slot]
        return session.dice if session.params.logprobs is None else None

    def _pick(
        self,
        logits: Tensor,
        batch: Sequence[Extension],
        sessions: Sequence[Shaping],
        library: Library,
    ) -> list[int]:
        """The picks, by one look at the logits and no copy of them."""
        num_rows, width = logits.shape
        best = array("i", bytes(4 * num_rows))
        to, at = best.buffer_info()[0], logits.data_ptr()
        for extension, session in zip(batch, sessions, strict=True):
            assert session.dice is not None
            dice, count = dice_of(session.dice), extension.num_picks
            library.best(at, count, width, dice, extension.first_pick, to)
            at += 4 * count * width
            to += 4 * count
        return best.tolist()

    def _best(self, scores: Tensor) -> list[int]:
        if self._device.type != "cpu":
            ids: list[int] = scores.argmax(dim=1).tolist()
            return ids
        # Nine times faster than torch's argmax on the CPU; both give the lowest id among equals.
        if scores.dtype != torch.float32:
            scores = self._work.copy(scores)
        best: list[int] = scores.numpy().argmax(axis=1).tolist()
        return best

    def _make_session(
        self, params: SamplingParams, prompt_tokens: int, noise: SessionNoise | None = None
    ) -> Shaping:
        return Shaping.make(
            params,
            prompt_tokens,
            self._vocab_size,
            self._device,
            noise=None if params.greedy else noise or self._noise.session(params.seed),
        )
