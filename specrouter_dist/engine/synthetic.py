"""Real forwards of a shape, and picks that agree as stated: speed without weights.

A synthetic member is the fast engine over random weights. Forward, cache, batches and draws are
those of a model of that shape; what was drawn is then replaced by the pick of the pool's synthetic
texts (:mod:`~specrouter_dist.speculation.agreeing`). It is a function of the seed and of the tokens
before it, so the target is as deterministic as a model, and a drafter agrees with it as often as
the pool file says, after whatever prefix.

Such a law has one id at each position. So there is no runner-up, and a request whose parameters
reshape or read a law is refused. A text goes on until its last token: no stop id is ever picked.
"""

import math
import zlib
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from specrouter_dist.config import ModelMember, SamplingParams, SyntheticTexts
from specrouter_dist.engine.fast import FastEngine
from specrouter_dist.engine.interface import Extension, Picks
from specrouter_dist.engine.loading import TORCH_DTYPES
from specrouter_dist.engine.sampler import Sampler
from specrouter_dist.errors import ConfigError, RequestError
from specrouter_dist.pools.llama_sizes import read_sizes
from specrouter_dist.pools.synthetic import refuse_laws
from specrouter_dist.routing.similarity import SparseRows
from specrouter_dist.speculation.agreeing import (
    NUM_GROUPS,
    AgreedText,
    JointLaw,
    law_of,
    seed_key,
    text_key,
)
from specrouter_dist.speculation.messages import TOKEN_TYPECODE, TokenArray
from specrouter_dist.speculation.tokens import TokenBuffer

_WEIGHT_DEVIATION = 0.02
"""As models are initialised: nothing overflows."""


class RandomWeights:
    """Tensors in place of those of a checkpoint, made where they are used.

    Args:
        dtype: of all.
        device: where they are made.
    """

    def __init__(self, dtype: torch.dtype, device: torch.device) -> None:
        self._dtype = dtype
        self._device = device

    def read(self, name: str, *shape: int) -> Tensor:
        """One tensor; of the same name and shape always the same on a device."""
        if name.endswith("norm.weight"):
            return torch.ones(shape, dtype=self._dtype, device=self._device)
        generator = torch.Generator(self._device).manual_seed(zlib.crc32(name.encode()))
        tensor = torch.empty(shape, dtype=self._dtype, device=self._device)
        return tensor.normal_(std=_WEIGHT_DEVIATION, generator=generator)


@dataclass(frozen=True, slots=True)
class AgreedMember:
    """One of the members whose picks agree as stated.

    Attributes:
        law: of all of them.
        index: of this one.
        texts: that they write.
        num_ids: ids that may be picked are below it.
    """

    law: JointLaw
    index: int
    texts: SyntheticTexts
    num_ids: int

    @classmethod
    def of(cls, name: str, texts: SyntheticTexts, num_ids: int) -> "AgreedMember":
        """
        Raises:
            ConfigError: the agreements contradict each other, or there are too few ids.
        """
        if num_ids < NUM_GROUPS:
            raise ConfigError(f"num_ids: at least {NUM_GROUPS} are needed, got {num_ids}")
        law, index = law_of(texts.agreements, name)
        return cls(law, index, texts, num_ids)

    def text(self, sampling: SamplingParams) -> AgreedText:
        """What the members would write: greedily always the same, else by the request's seed."""
        number = 0 if sampling.greedy else sampling.seed + 1
        key = text_key(seed_key(self.texts.seed), number)
        return AgreedText(key, [self.law], num_ids=self.num_ids)


@dataclass(slots=True)
class _Written:
    """A session's text."""

    text: AgreedText
    stop_ids: frozenset[int]
    fed: TokenBuffer = field(default_factory=TokenBuffer)


class SyntheticSampler(Sampler):
    """Draws as any sampler does, and says what the synthetic texts have there.

    Args:
        member: whose picks these are.
        vocab_size: width of the logits; the others as for a sampler, too.
    """

    def __init__(
        self,
        member: AgreedMember,
        vocab_size: int,
        max_sessions: int,
        device: torch.device,
        beside: Sampler | None = None,
    ) -> None:
        super().__init__(vocab_size, max_sessions, device, beside)
        self._member = member
        self._written: dict[int, _Written] = {}
        self._num_words = member.num_ids // NUM_GROUPS

    def of_member(self, name: str) -> Sampler:
        agreed = AgreedMember.of(name, self._member.texts, self._member.num_ids)
        return SyntheticSampler(agreed, self._vocab_size, self._max_sessions, self._device, self)

    def open(
        self,
        slot: int,
        params: SamplingParams,
        prompt_tokens: int,
        *,
        beside: Sampler | None = None,
    ) -> None:
        """
        Raises:
            RequestError: a parameter needs a law, or there are so many stop ids that hardly
                another one is left; names the field.
        """
        refuse_laws(params)
        stop_ids = frozenset(params.stop_token_ids)
        if len(stop_ids) >= self._num_words:
            raise RequestError(
                f"stop_token_ids: members with engine 'synthetic' go round stop ids, at most "
                f"{self._num_words - 1}, got {len(stop_ids)}",
                field="stop_token_ids",
            )
        super().open(slot, params, prompt_tokens, beside=beside)
        self._written[slot] = _Written(self._member.text(params), stop_ids)

    def fork(self, slot: int, new_slot: int, length: int) -> None:
        super().fork(slot, new_slot, length)
        origin = self._written[slot]
        fed = TokenBuffer(origin.fed.slice(0, length))
        self._written[new_slot] = _Written(origin.text, origin.stop_ids, fed)

    def resume(self, slot: int, tokens: TokenArray) -> None:
        super().resume(slot, tokens)
        self._written[slot].fed.append(tokens)

    def follow(self, slot: int, start: int, tokens: TokenArray) -> None:
        super().follow(slot, start, tokens)
        fed = self._written[slot].fed
        fed.truncate(start)
        fed.append(tokens)

    def close(self, slot: int) -> None:
        super().close(slot)
        del self._written[slot]

    def draw(self, logits: Tensor, batch: Sequence[Extension]) -> list[Picks]:
        """The picks of every extension; what the logits say takes its time and is dropped."""
        super().draw(logits, batch)
        return [self._picks(extension) for extension in batch]

    def dice(self, slot: int) -> None:
        """What is drawn is replaced, token by token."""
        return

    def _picks(self, extension: Extension) -> Picks:
        written, tokens = self._written[extension.slot], extension.tokens
        written.fed.truncate(extension.start)
        written.fed.append(tokens)
        count = extension.num_picks
        if not count:
            return Picks(array(TOKEN_TYPECODE))
        first = extension.first_pick
        picks = written.text.picks(
            self._member.index,
            first,
            written.fed.hash_at(first),
            tokens[len(tokens) - count + 1 :],
        )
        if not written.stop_ids.isdisjoint(picks):
            picks = array(TOKEN_TYPECODE, (self._round_stops(t, written.stop_ids) for t in picks))
        has_more = extension.num_runner_ups > 0
        return Picks(
            picks,
            runner_ups=(array(TOKEN_TYPECODE),) * count if has_more else (),
            gaps=(math.inf,) * count if has_more else (),
            sparse_rows=self._rows([picks[i] for i in extension.sparse_rows])
            if extension.sparse_rows
            else None,
        )

    def _round_stops(self, token: int, stop_ids: frozenset[int]) -> int:
        """The next token of the same group that is none of them."""
        while token in stop_ids:
            token = (token + NUM_GROUPS) % (self._num_words * NUM_GROUPS)
        return token

    def _rows(self, picks: Sequence[int]) -> SparseRows:
        """Laws that have nothing but the pick."""
        return SparseRows(
            np.array(picks, dtype=np.uint32)[:, None],
            np.zeros((len(picks), 1), dtype=np.float32),
            np.zeros(len(picks)),
            self._member.num_ids,
        )


def load_synthetic(
    member: ModelMember, directory: Path, texts: SyntheticTexts, *, num_ids: int | None, exact: bool
) -> FastEngine:
    """A member of a synthetic pool.

    Args:
        member: its device, dtype and sizes.
        directory: whose config.json says the shape.
        texts: what the pool's members write.
        num_ids: only the first so many ids are picked, None: all; logits are computed of all.
        exact: whether the forwards are those of exact mode.

    Raises:
        ConfigError: a size does not fit the shape, there is not enough memory, or the agreements
            contradict each other.
        EngineError: the fast engine does not run such a shape.
    """
    num_picked = read_sizes(directory).vocab_size if num_ids is None else num_ids
    agreed = AgreedMember.of(member.name, texts, num_picked)
    return FastEngine.load(
        directory,
        dtype=member.dtype,
        device=member.device,
        context_tokens=member.context_tokens,
        kv_tokens=member.kv_tokens,
        max_sessions=member.max_sessions,
        num_ids=None,
        exact=exact,
        quantization=member.quantization,
        prefix_cache=member.prefix_cache,
        weights=RandomWeights(TORCH_DTYPES[member.dtype], torch.device(member.device)),
        make_sampler=partial(SyntheticSampler, agreed),
    )
