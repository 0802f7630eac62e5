"""Any transformers causal language model as a member: the compatible path, not the fast one.

Every session has its own ``DynamicCache`` and its own forwards. In exact mode positions are
computed in fixed groups: blocks of 128 inside the prompt, then of 8, aligned to multiples of
their size. A forward always feeds one whole group behind the whole groups before it, padded where
tokens are not known yet; an incomplete group is computed again. So the shapes in which a
position is computed are a function of the position and the prompt's length alone, and no row
looks at a later one: picks are bit-equal however the tokens were cut into extensions. (Mixtures
of experts gather rows by content; their groups have one row.)
"""

import copy
import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.cache_utils import DynamicCache

from specrouter_dist.config import Dtype, SamplingParams
from specrouter_dist.engine.extension_checks import check_extension
from specrouter_dist.engine.general_checks import (
    cache_argument,
    check_supported,
    measure_kv_bytes,
    mixes_rows,
    resolve_context,
)
from specrouter_dist.engine.interface import Extension, ModelInfo, Picks
from specrouter_dist.engine.sampler import Sampler
from specrouter_dist.errors import ConfigError, EngineError, NoRoomError
from specrouter_dist.speculation.messages import TokenArray

_PROMPT_GROUP = 128
_GROUP = 8
_DTYPES = {Dtype.FP32: torch.float32, Dtype.BF16: torch.bfloat16}


@dataclass(slots=True)
class _Session:
    sampling: SamplingParams
    prompt_tokens: int
    max_total_tokens: int
    cache: DynamicCache
    cached: int = 0
    """Positions whose keys and values ``cache`` holds, in exact mode with the padding."""
    tokens: list[int] = field(default_factory=list)
    """All that was fed and still stands."""


class GeneralEngine:
    """An :class:`~specrouter_dist.engine.interface.Engine` over a transformers model.

    Use :meth:`load`. The KV memory is not allocated ahead; ``kv_tokens`` bounds what the open
    sessions reserve, and ``info.kv_bytes`` is that bound.
    """

    def __init__(
        self,
        model: Any,
        *,
        context_tokens: int,
        kv_tokens: int,
        max_sessions: int,
        num_ids: int,
        exact: bool,
    ) -> None:
        self._model = model
        self._device = next(model.parameters()).device
        self._exact = exact
        self._groups = (1, 1) if mixes_rows(model.config) else (_PROMPT_GROUP, _GROUP)
        self._cache_argument = cache_argument(model)
        self._can_skip_logits = "logits_to_keep" in inspect.signature(model.forward).parameters
        self._kv_tokens = kv_tokens
        self._sessions: dict[int, _Session] = {}
        self._free = list(range(max_sessions - 1, -1, -1))
        self._sampler = Sampler(num_ids, max_sessions, self._device)
        parameters = list(model.parameters())
        self._info = ModelInfo(
            vocab_size=num_ids,
            context_tokens=context_tokens,
            num_parameters=sum(p.numel() for p in parameters),
            weight_bytes=sum(p.numel() * p.element_size() for p in parameters),
            kv_bytes=kv_tokens * measure_kv_bytes(model),
            max_sessions=max_sessions,
        )

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
    ) -> "GeneralEngine":
        """Loads a model directory in Hugging Face format.

        Args:
            directory: holds config.json and the weights.
            dtype: of weights, activations and cache.
            device: where it runs.
            context_tokens: longest sequence; None: what the model allows.
            kv_tokens: positions that all sessions together may reserve.
            max_sessions: number of slots.
            num_ids: only the first so many ids may be drawn; None: all that the head has.
            exact: fixed shapes, so that picks do not depend on how tokens are fed.

        Raises:
            ConfigError: a size does not fit the model.
            EngineError: the model cannot be rolled back exactly.
        """
        config = AutoConfig.from_pretrained(directory, local_files_only=True)
        check_supported(config)
        context = resolve_context(config, context_tokens)
        vocab_size = config.get_text_config(decoder=True).vocab_size
        if num_ids is not None and num_ids > vocab_size:
            raise ConfigError(
                f"num_ids: the model has {vocab_size} ids, got {num_ids}", field="num_ids"
            )
        model = AutoModelForCausalLM.from_pretrained(
            directory, config=config, dtype=_DTYPES[dtype], local_files_only=True
        )
        return cls(
            model.to(device).eval().requires_grad_(False),
            context_tokens=min(context, kv_tokens),
            kv_tokens=kv_tokens,
            max_sessions=max_sessions,
            num_ids=num_ids or vocab_size,
            exact=exact,
        )

    @property
    def info(self) -> ModelInfo:
        return self._info

    @property
    def kv_share(self) -> float:
        return sum(s.max_total_tokens for s in self._sessions.values()) / self._kv_tokens

    def open(self, sampling: SamplingParams, prompt_tokens: int, max_total_tokens: int) -> int:
        if not 1 <= max_total_tokens <= self._info.context_tokens:
            raise EngineError(
                f"max_total_tokens: must be 1 to {self._info.context_tokens}, "
                f"got {max_total_tokens}"
            )
        cache = DynamicCache(config=self._model.config)
        slot = self._reserve(_Session(sampling, prompt_tokens, max_total_tokens, cache))
        self._sampler.open(slot, sampling, prompt_tokens)
        return slot

    @torch.inference_mode()
    def extend(self, batch: Sequence[Extension]) -> list[Picks]:
        for extension in batch:
            session = self._sessions[extension.slot]
            fed, reserved = len(session.tokens), session.max_total_tokens
            check_extension(extension, fed=fed, reserved=reserved)
        return [self._extend(self._sessions[extension.slot], extension) for extension in batch]

    def fork(self, slot: int, length: int, max_total_tokens: int | None = None) -> int:
        origin = self._sessions[slot]
        if not 0 <= length <= len(origin.tokens):
            raise EngineError(f"length: must be 0 to {len(origin.tokens)}, got {length}")
        cache = copy.copy(origin.cache)
        # Tensors are shared: a cache never writes to them, it concatenates into new ones.
        cache.layers = [copy.copy(layer) for layer in origin.cache.layers]
        session = _Session(
            origin.sampling,
            origin.prompt_tokens,
            origin.max_total_tokens if max_total_tokens is None else max_total_tokens,
            cache,
            origin.cached,
            origin.tokens[:length],
        )
        new_slot = self._reserve(session)
        self._sampler.fork(slot, new_slot, length)
        return new_slot

    def reuse(self, slot: int, tokens: TokenArray) -> int:
        """Nothing is kept between sessions."""
        return 0

    def publish(self, slot: int, tokens: TokenArray) -> None:
        """Nothing is kept between sessions."""

    def close(self, slot: int) -> None:
        del self._sessions[slot]
        self._free.append(slot)
        self._sampler.close(slot)

    def set_threads(self, num_threads: int) -> None:
        torch.set_num_threads(num_threads)

    def _reserve(self, session: _Session) -> int:
        reserved = sum(s.max_total_tokens for s in self._sessions.values())
        if not self._free or reserved + session.max_total_tokens > self._kv_tokens:
            raise NoRoomError(
                f"{len(self._sessions)} of {self._info.max_sessions} slots and {reserved} of "
                f"{self._kv_tokens} KV tokens are in use, {session.max_total_tokens} are wanted"
            )
        slot = self._free.pop()
        self._sessions[slot] = session
        return slot

    def _extend(self, session: _Session, extension: Extension) -> Picks:
        rows = self._feed(session, extension)
        (picks,) = self._sampler.draw(rows[len(rows) - extension.num_picks :], [extension])
        if extension.followers:
            read = self._sampler.read_followers(extension, lambda first, stop: rows[first:stop])
            picks = replace(picks, follower_logprobs=read)
        for _ in range(extension.num_drafts):
            last = picks.tokens[-1]
            if last in session.sampling.stop_token_ids:
                break
            step = extension.draft_step(len(session.tokens), last)
            (draft,) = self._sampler.draw(self._feed(session, step), [step])
            picks += draft
        return picks

    def _feed(self, session: _Session, extension: Extension) -> Tensor:
        """Logits after the last ``num_picks`` tokens, or after all where there are followers."""
        start = extension.start
        session.tokens[start:] = extension.tokens
        length = len(session.tokens)
        first_wanted = start if extension.followers else length - extension.num_picks
        wanted = []
        for begin, end in self._groups_of(session, min(start, session.cached), length):
            stop, first = min(end, length), max(begin, first_wanted)
            num_kept = 1
            if first < stop:
                num_kept = end - begin if self._exact else end - first
            rows = self._forward(session, begin, end, num_kept)
            offset = end - num_kept
            wanted.append(rows[first - offset : stop - offset] if first < stop else rows[:0])
        return torch.cat(wanted)

    def _groups_of(self, session: _Session, start: int, length: int) -> list[tuple[int, int]]:
        """The forwards that compute positions ``[start, length)``: where each begins and ends."""
        if not self._exact:
            return [(start, length)]
        in_prompt, after = self._groups
        boundary = session.prompt_tokens // in_prompt * in_prompt
        groups = []
        size = in_prompt if start < boundary else after
        begin = start - start % size
        while begin < length:
            size = in_prompt if begin < boundary else after
            end = min(begin + size, self._info.context_tokens)
            groups.append((begin, end))
            begin = end
        return groups

    def _forward(self, session: _Session, begin: int, end: int, num_kept: int) -> Tensor:
        """Computes positions ``[begin, end)`` behind the cache cut to ``begin``.

        What lies past the session's tokens is padding.

        Returns:
            Logits ``[num_kept, vocab_size]`` of the last positions.
        """
        self._cut(session, begin)
        tokens = session.tokens[begin:end]
        padded = tokens + [0] * (end - begin - len(tokens))
        ids = torch.tensor([padded], dtype=torch.int64, device=self._device)
        keep = {"logits_to_keep": num_kept} if self._can_skip_logits else {}
        logits: Tensor = self._model(
            input_ids=ids, use_cache=True, **{self._cache_argument: session.cache}, **keep
        ).logits
        # Padding stays until the next forward, which begins before it and cuts it off.
        session.cached = end
        return logits[0, -num_kept:, : self._info.vocab_size]

    def _cut(self, session: _Session, length: int) -> None:
        """Cuts the cache to ``length`` positions; views, nothing is copied."""
        if length < session.cached:
            for layer in session.cache.layers:
                layer.keys = layer.keys[..., :length, :]
                layer.values = layer.values[..., :length, :]
            session.cached = length
