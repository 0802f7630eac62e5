"""The fast engine: our own decoder for the Llama family over a paged KV cache."""

from array import array
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from specrouter_dist.config import Dtype, Quantization, SamplingParams
from specrouter_dist.engine.decoder import Decoder, Part, Run
from specrouter_dist.engine.eight_bits import check_quantization
from specrouter_dist.engine.extension_checks import check_extension, end_of
from specrouter_dist.engine.fast_loading import load_decoder
from specrouter_dist.engine.fast_sessions import SessionTable
from specrouter_dist.engine.interface import Extension, ModelInfo, Picks, TokenLogprobs
from specrouter_dist.engine.kv_cache import pages_for
from specrouter_dist.engine.llama_shape import read_shape
from specrouter_dist.engine.loading import Weights, checked_context, checked_num_ids
from specrouter_dist.engine.lora import Adapter
from specrouter_dist.engine.ragged import reading_order
from specrouter_dist.engine.sampler import Sampler
from specrouter_dist.errors import EngineError, RequestError
from specrouter_dist.speculation.messages import TOKEN_TYPECODE, TokenArray


class FastEngine:
    """One model of the Llama family on one device (implements ``Engine``)."""

    def __init__(
        self,
        decoder: Decoder,
        sessions: SessionTable,
        sampler: Sampler,
        info: ModelInfo,
    ) -> None:
        self._decoder = decoder
        self._sampler = sampler
        self._info = info
        self._sessions = sessions
        self._adapter: Adapter | None = None
        """Of the sessions that it opens."""

    @classmethod
    def load(
        cls,
        directory: Path,
        *,
        dtype: Dtype,
        device: str,
        context_tokens: int | None,
        kv_tokens: int,
        max_sessions: int,
        num_ids: int | None,
        exact: bool,
        quantization: Quantization | None = None,
        prefix_cache: bool = True,
        weights: Weights | None = None,
        make_sampler: Callable[[int, int, torch.device], Sampler] = Sampler,
    ) -> Self:
        """Loads a Hugging Face directory (``config.json`` and safetensors).

        Args:
            directory: where the model lies.
            dtype: of weights and KV cache; with torch's operations on the CPU the cache is float32.
            device: ``cpu`` or ``cuda``.
            context_tokens: longest sequence; None: what the model allows.
            kv_tokens: positions of the KV cache, over all sessions; rounded up to pages.
            max_sessions: most sessions open at once.
            num_ids: only the first so many ids may be drawn; None: all.
            exact: whether picks must not depend on batch and block sizes
                (:mod:`~specrouter_dist.engine.exactness`).
            quantization: of the weights, to 8 bits (not with ``exact``).
            prefix_cache: whether pages are kept for later sessions.
            weights: in place of those in the directory.
            make_sampler: of a width of the logits, a number of sessions and a device.

        Raises:
            ConfigError: a file or tensor is missing or broken, a size does not fit the model, or
                there is not enough memory.
            EngineError: the model is not one that this engine runs, or the device does not run the
                quantization.
        """
        where = torch.device(device)
        if quantization is not None:
            check_quantization(quantization, where, exact=exact)
        shape = read_shape(directory)
        context = checked_context(shape, context_tokens, kv_tokens)
        ids = checked_num_ids(shape, num_ids)
        decoder = load_decoder(
            directory,
            shape,
            weights,
            dtype=dtype,
            device=where,
            num_pages=pages_for(kv_tokens),
            num_ids=ids,
            context_tokens=context,
            exact=exact,
            quantization=quantization,
        )
        info = ModelInfo(
            vocab_size=ids,
            context_tokens=context,
            num_parameters=shape.num_parameters,
            weight_bytes=decoder.weight_bytes,
            kv_bytes=decoder.cache.num_bytes,
            max_sessions=max_sessions,
        )
        sessions = SessionTable(decoder.cache, max_sessions, prefix_cache=prefix_cache)
        return cls(decoder, sessions, make_sampler(ids, max_sessions, where), info)

    @property
    def info(self) -> ModelInfo:
        return self._info

    @property
    def kv_share(self) -> float:
        return self._sessions.kv_share

    def open(self, sampling: SamplingParams, prompt_tokens: int, max_total_tokens: int) -> int:
        """Reserves a slot and whole pages for ``max_total_tokens`` positions.

        Raises:
            EngineError: the context is shorter than that.
            NoRoomError: slots or pages are used up.
        """
        if not 1 <= max_total_tokens <= self._info.context_tokens:
            raise EngineError(
                f"max_total_tokens: must be 1 to {self._info.context_tokens}, "
                f"got {max_total_tokens}"
            )
        stop_ids = array(TOKEN_TYPECODE, sampling.stop_token_ids)
        slot = self._sessions.open(max_total_tokens, stop_ids, self._adapter)
        try:
            self._sampler.open(slot, sampling, prompt_tokens)
        except RequestError:
            self._sessions.close(slot)
            raise
        return slot

    def fork(self, slot: int, length: int, max_total_tokens: int | None = None) -> int:
        """A new slot, with the same reservation or its own, that shares ``length`` positions.

        Whole pages are shared, the rest of the last one is copied.

        Raises:
            EngineError: fewer positions have been fed, or are reserved.
            NoRoomError: slots or pages are used up.
        """
        new_slot = self._sessions.fork(slot, length, max_total_tokens)
        self._sampler.fork(slot, new_slot, length)
        return new_slot

    def reuse(self, slot: int, tokens: TokenArray) -> int:
        """Takes over what earlier sessions have published of a prefix of ``tokens``."""
        num_cached = self._sessions.reuse(slot, tokens)
        self._sampler.resume(slot, tokens[:num_cached])
        return num_cached

    def publish(self, slot: int, tokens: TokenArray) -> None:
        """Leaves the pages of ``tokens``, which the session holds, to later sessions."""
        self._sessions.publish(slot, tokens)

    def close(self, slot: int) -> None:
        """Frees the slot and the pages that no fork holds."""
        self._sessions.close(slot)
        self._sampler.close(slot)

    def set_threads(self, num_threads: int) -> None:
        """How many CPU threads the next forwards use, in the whole process."""
        torch.set_num_threads(num_threads)

    def extend(self, batch: Sequence[Extension]) -> list[Picks]:
        """Feeds every session's tokens in one forward, then draws and feeds their drafts.

        Raises:
            EngineError: an extension does not fit its session.
            NoRoomError: pages shared with a fork would have to be written, and none is free to
                take their place. Nothing has been fed then.
        """
        if len({extension.slot for extension in batch}) != len(batch):
            raise EngineError("slot: a batch extends a session once")
        for extension in batch:
            session = self._sessions[extension.slot]
            check_extension(extension, fed=session.fed, reserved=session.reserved)
            if (most := max(extension.tokens)) >= self._info.vocab_size:
                raise EngineError(f"tokens: ids must be below {self._info.vocab_size}, got {most}")
        for extension in batch:
            self._sessions.own_pages(extension.slot, extension.start, end_of(extension))
        picks = self._run(batch)
        return self._step_by_step(batch) if picks is None else picks

    def _step_by_step(self, batch: Sequence[Extension]) -> list[Picks]:
        """A forward with its draws, and one for each draft."""
        order = sorted(range(len(batch)), key=lambda i: self._reading_order(batch[i]))
        batch = [batch[i] for i in order]
        picks = self._step(batch)
        drafting = [i for i, extension in enumerate(batch) if extension.num_drafts > 0]
        while drafting:
            drafting = self._draft(batch, picks, drafting)
        found = dict(zip(order, picks, strict=True))
        return [found[i] for i in range(len(batch))]

    def _reading_order(self, extension: Extension) -> tuple[int, int, int]:
        table = self._sessions[extension.slot].table
        return reading_order(table, extension.start, len(extension.tokens))

    def _draft(
        self, batch: Sequence[Extension], picks: list[Picks], drafting: Sequence[int]
    ) -> list[int]:
        """Feeds the last pick of each of ``drafting``, appends what follows, says who goes on."""
        steps: dict[int, Extension] = {}
        for i in drafting:
            extension, tokens = batch[i], picks[i].tokens
            num_drafted = len(tokens) - extension.num_picks
            is_over = tokens[-1] in self._sessions[extension.slot].stop_ids
            if num_drafted < extension.num_drafts and not is_over:
                start = extension.start + len(extension.tokens) + num_drafted
                steps[i] = extension.draft_step(start, tokens[-1])
        if steps:
            for i, step_picks in zip(steps, self._step(list(steps.values())), strict=True):
                picks[i] += step_picks
        return list(steps)

    def _run(self, batch: Sequence[Extension]) -> list[Picks] | None:
        """All picks and the drafts behind them, in one call of the decoder; None: something else is
        wanted as well, or the decoder has no such call."""
        runs: list[Run] = []
        for extension in batch:
            dice = self._sampler.dice(extension.slot)
            if dice is None or not extension.wants_tokens_only:
                return None
            counts = extension.num_picks, extension.num_drafts
            stop_ids = self._sessions[extension.slot].stop_ids
            runs.append(Run(self._part(extension), *counts, extension.first_pick, dice, stop_ids))
        order = sorted(range(len(runs)), key=lambda i: runs[i].num_drafts, reverse=True)
        drawn = self._decoder.draw([runs[i] for i in order])
        if drawn is None:
            return None
        found = dict(zip(order, drawn, strict=True))
        return [self._until_stop(extension, found[i]) for i, extension in enumerate(batch)]

    def _until_stop(self, extension: Extension, drawn: TokenArray) -> Picks:
        """Of one run, no drafts behind a stop token."""
        session, num_picks = self._sessions[extension.slot], extension.num_picks
        if len(drawn) > num_picks:
            behind = range(max(num_picks, 1), len(drawn))
            stops = (i for i in behind if drawn[i - 1] in session.stop_ids)
            drawn = drawn[: next(stops, len(drawn))]
        num_fed = len(extension.tokens) + len(drawn) - num_picks
        session.fed = max(session.fed, extension.start + num_fed)
        return Picks(drawn)

    def _part(self, extension: Extension) -> Part:
        session = self._sessions[extension.slot]
        return Part(session.table, extension.start, extension.tokens, session.adapter)

    def _step(self, batch: Sequence[Extension]) -> list[Picks]:
        """One forward and its draws."""
        hidden = self._decoder.forward([self._part(extension) for extension in batch])
        for extension in batch:
            session = self._sessions[extension.slot]
            session.fed = max(session.fed, extension.start + len(extension.tokens))
        picks = self._sampler.draw(self._pick_logits(hidden, batch), batch)
        row = 0
        for i, extension in enumerate(batch):
            if extension.followers:
                picks[i] = replace(picks[i], follower_logprobs=self._read(hidden, row, extension))
            row += len(extension.tokens)
        return picks

    def _read(self, hidden: Tensor, row: int, extension: Extension) -> tuple[TokenLogprobs, ...]:
        """Log-probabilities of the followers of an extension whose first row is ``row``."""
        return self._sampler.read_followers(
            extension,
            lambda first, stop: self._decoder.logits(hidden, range(row + first, row + stop)),
        )

    def _pick_logits(self, hidden: Tensor, batch: Sequence[Extension]) -> Tensor:
        """Logits of the rows after which tokens are wanted."""
        wanted: list[int] = []
        row = 0
        for extension in batch:
            row += len(extension.tokens)
            wanted += range(row - extension.num_picks, row)
        if not wanted:
            return hidden.new_zeros(0, self._info.vocab_size, dtype=torch.float32)
        return self._decoder.logits(hidden, wanted)
