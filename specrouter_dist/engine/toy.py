"""A table instead of a network: a member for tests of everything around the engine.

The law at a position is a function of the last two tokens alone, drawn from hashes. It is shared
by all toys of one ``language`` at a fraction ``agreement`` of the contexts and the toy's own at
the others, so two toys pick the same token with a probability that the test chooses. The toy
keeps what it was fed as a fake KV cache and fails loudly on a batch that no stage should send.
"""

import math
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from specrouter_dist.config import SamplingParams
from specrouter_dist.engine.interface import Extension, ModelInfo, Picks, TokenLogprobs
from specrouter_dist.errors import EngineError, NoRoomError
from specrouter_dist.routing.similarity import SparseRows
from specrouter_dist.speculation.messages import TOKEN_TYPECODE, TokenArray
from specrouter_dist.speculation.noise import GumbelRows, mix64
from specrouter_dist.speculation.tiers import Weight

_MASK64 = (1 << 64) - 1
_NO_TOKEN = (1 << 32) - 1
_SHARED_LAW = 0
_NOISE_BLOCK_ROWS = 32
_MAX_NOISE_BLOCKS = 1 << 10

Row = npt.NDArray[np.float64]


@dataclass(slots=True)
class _Session:
    sampling: SamplingParams
    prompt_tokens: int
    max_total_tokens: int
    fed: list[int] = field(default_factory=list)


class ToyEngine:
    """An :class:`~specrouter_dist.engine.interface.Engine` without a network.

    It honours temperature, seed, stop ids, ``min_tokens``, ``logprobs`` and
    ``prompt_logprobs``, and refuses the other sampling parameters.

    Args:
        vocab_size: number of ids.
        model_seed: of the toy's own law.
        language: of the law shared by all toys of the same language and vocabulary.
        agreement: fraction of contexts in ``[0, 1]`` at which the toy follows the shared law.
        sharpness: standard deviation of the logits; higher means less entropy.
        context_tokens: longest sequence.
        max_sessions: number of slots.
        kv_tokens: positions that all sessions together may reserve.
    """

    def __init__(
        self,
        vocab_size: int = 24,
        *,
        model_seed: int = 0,
        language: int = 0,
        agreement: float = 1.0,
        sharpness: float = 2.0,
        context_tokens: int = 4096,
        max_sessions: int = 64,
        kv_tokens: int = 1 << 20,
    ) -> None:
        self._vocab_size = vocab_size
        self._model_key = mix64((model_seed << 1 | 1) & _MASK64)
        self._language_key = mix64((language << 1) & _MASK64)
        self._agreement = agreement
        self._sharpness = sharpness
        self._kv_tokens = kv_tokens
        self._sessions: dict[int, _Session] = {}
        self._free = list(range(max_sessions - 1, -1, -1))
        self._laws: dict[tuple[int, int], Row] = {}
        self._noise_maker = GumbelRows(vocab_size, _NOISE_BLOCK_ROWS)
        self._noise: dict[tuple[int, int], npt.NDArray[np.float32]] = {}
        self._info = ModelInfo(
            vocab_size=vocab_size,
            context_tokens=context_tokens,
            num_parameters=0,
            weight_bytes=0,
            kv_bytes=0,
            max_sessions=max_sessions,
        )

    @property
    def info(self) -> ModelInfo:
        return self._info

    @property
    def kv_share(self) -> float:
        return self.num_open / self._info.max_sessions

    @property
    def num_open(self) -> int:
        """Number of slots in use."""
        return len(self._sessions)

    def cached(self, slot: int) -> list[int]:
        """The tokens whose fake KV entries the slot holds, from position 0 (invariant 2)."""
        return list(self._sessions[slot].fed)

    def open(self, sampling: SamplingParams, prompt_tokens: int, max_total_tokens: int) -> int:
        _refuse_unsupported(sampling)
        assert 0 < prompt_tokens <= max_total_tokens <= self._info.context_tokens
        return self._reserve(_Session(sampling, prompt_tokens, max_total_tokens))

    def extend(self, batch: Sequence[Extension]) -> list[Picks]:
        slots = [extension.slot for extension in batch]
        assert len(set(slots)) == len(slots), f"a slot occurs twice in the batch: {slots}"
        return [self._extend(self._sessions[e.slot], e) for e in batch]

    def fork(self, slot: int, length: int, max_total_tokens: int | None = None) -> int:
        origin = self._sessions[slot]
        assert 0 <= length <= len(origin.fed), f"fork at {length} of {len(origin.fed)} fed tokens"
        return self._reserve(
            _Session(
                origin.sampling,
                origin.prompt_tokens,
                origin.max_total_tokens if max_total_tokens is None else max_total_tokens,
                origin.fed[:length],
            )
        )

    def reuse(self, slot: int, tokens: TokenArray) -> int:
        """Nothing is kept between sessions."""
        return 0

    def publish(self, slot: int, tokens: TokenArray) -> None:
        """Nothing is kept between sessions."""

    def close(self, slot: int) -> None:
        del self._sessions[slot]
        self._free.append(slot)

    def set_threads(self, num_threads: int) -> None:
        assert num_threads >= 1

    def law(self, before_last: int | None, last: int) -> Row:
        """Logits float64 ``[vocab_size]`` after the last two tokens."""
        context = (_NO_TOKEN if before_last is None else before_last, last)
        row = self._laws.get(context)
        if row is None:
            row = self._laws[context] = self._make_law(context)
        return row

    def _make_law(self, context: tuple[int, int]) -> Row:
        packed = context[0] << 32 | context[1]
        chooser = mix64(self._model_key ^ mix64(packed))
        shared = chooser < self._agreement * 2.0**64
        key = self._language_key if shared else self._model_key
        bits = [mix64((mix64(key ^ packed) + token) & _MASK64) for token in range(self._vocab_size)]
        # The sum of four uniforms is close enough to a normal for a toy.
        uniform = np.array([[b >> s & 0xFFFF for s in (0, 16, 32, 48)] for b in bits]) / 65536.0
        row: Row = (uniform.sum(axis=1) - 2.0) * np.sqrt(3.0) * self._sharpness
        return row

    def _reserve(self, session: _Session) -> int:
        reserved = sum(s.max_total_tokens for s in self._sessions.values())
        if not self._free or reserved + session.max_total_tokens > self._kv_tokens:
            raise NoRoomError(
                f"{len(self._sessions)} of {self._info.max_sessions} slots and {reserved} of "
                f"{self._kv_tokens} KV tokens are in use"
            )
        slot = self._free.pop()
        self._sessions[slot] = session
        return slot

    def _extend(self, session: _Session, extension: Extension) -> Picks:
        self._check(session, extension)
        fed, sampling = session.fed, session.sampling
        del fed[extension.start :]
        fed.extend(extension.tokens)
        first = len(fed) - extension.num_picks + 1
        picks = Picks(
            array(TOKEN_TYPECODE),
            sparse_rows=self._sparse_rows(fed, first, extension),
            follower_logprobs=self._read_followers(session, extension),
        )
        for position in range(first, len(fed) + 1):
            picks += self._pick(session, position, extension)
        for _ in range(extension.num_drafts):
            if picks.tokens[-1] in sampling.stop_token_ids:
                break
            fed.append(picks.tokens[-1])
            picks += self._pick(session, len(fed), extension)
        return replace(picks, weights=self._weigh(fed, first, picks.tokens, extension.weighed))

    def _pick(self, session: _Session, position: int, extension: Extension) -> Picks:
        fed, sampling = session.fed, session.sampling
        law = self._law_at(fed, position)
        scores = law
        if sampling.min_tokens and position - session.prompt_tokens < sampling.min_tokens:
            scores = law.copy()
            scores[[t for t in sampling.stop_token_ids if t < self._vocab_size]] = -np.inf
        if not sampling.greedy:
            scores = scores / sampling.temperature + self._noise_row(sampling.seed, position)
        token = int(scores.argmax())
        runner_ups = _runner_ups(scores, extension.num_runner_ups)
        return Picks(
            array(TOKEN_TYPECODE, (token,)),
            () if sampling.logprobs is None else (_logprobs(law, token, sampling.logprobs),),
            (runner_ups,) if extension.num_runner_ups else (),
            (_gap(scores, token, runner_ups),) if extension.num_runner_ups else (),
        )

    def _weigh(
        self, fed: Sequence[int], first: int, picks: Sequence[int], weighed: Sequence[int]
    ) -> tuple[Weight, ...]:
        laws = (_normalised(self._law_at(fed, first + i)) for i in range(len(weighed)))
        rows = zip(laws, weighed, picks, strict=False)
        return tuple(Weight(*map(float, (law[t], law[p], law.max()))) for law, t, p in rows)

    def _law_at(self, fed: Sequence[int], position: int) -> Row:
        return self.law(fed[position - 2] if position > 1 else None, fed[position - 1])

    def _sparse_rows(
        self, fed: Sequence[int], first: int, extension: Extension
    ) -> SparseRows | None:
        if not extension.sparse_rows:
            return None
        laws = np.stack([self._law_at(fed, first + i) for i in extension.sparse_rows])
        weights = np.exp(laws - laws.max(axis=1, keepdims=True))
        return SparseRows.of(weights / weights.sum(axis=1, keepdims=True))

    def _read_followers(self, session: _Session, extension: Extension) -> tuple[TokenLogprobs, ...]:
        return tuple(
            _logprobs(
                self._law_at(session.fed, extension.start + i + 1),
                token,
                session.sampling.prompt_logprobs or 0,
            )
            for i, token in enumerate(extension.followers)
        )

    def _noise_row(self, seed: int, position: int) -> npt.NDArray[np.float32]:
        number, row = divmod(position, _NOISE_BLOCK_ROWS)
        block = self._noise.get((seed, number))
        if block is None:
            if len(self._noise) >= _MAX_NOISE_BLOCKS:
                self._noise.clear()
            block = np.empty((_NOISE_BLOCK_ROWS, self._vocab_size), dtype=np.float32)
            self._noise_maker.fill(block, seed, number * _NOISE_BLOCK_ROWS)
            self._noise[seed, number] = block
        noise: npt.NDArray[np.float32] = block[row]
        return noise

    def _check(self, session: _Session, extension: Extension) -> None:
        fed, tokens, start = session.fed, extension.tokens, extension.start
        assert 0 <= start <= len(fed), f"start {start} leaves a gap after {len(fed)} fed tokens"
        assert len(tokens) > 0, "an extension feeds at least one token"
        assert 0 <= extension.num_picks <= len(tokens), "more picks than fed tokens"
        assert len(extension.followers) <= len(tokens), "more followers than fed tokens"
        assert extension.num_drafts >= 0, "num_drafts is negative"
        assert not extension.num_drafts or extension.num_picks, "drafts follow a pick"
        assert all(token < self._vocab_size for token in tokens), f"ids out of range: {tokens}"
        end = start + len(tokens) + extension.num_drafts
        assert end <= session.max_total_tokens, (
            f"position {end - 1} is beyond the {session.max_total_tokens} reserved"
        )


def _refuse_unsupported(sampling: SamplingParams) -> None:
    if (
        sampling.penalised
        or sampling.logit_bias
        or sampling.top_p < 1.0
        or sampling.top_k > 0
        or sampling.min_p > 0.0
    ):
        raise EngineError("a toy honours temperature, seed, stop ids, min_tokens and logprobs only")


def _runner_ups(scores: Row, num_runner_ups: int) -> TokenArray:
    order = np.argsort(-scores, kind="stable")[1 : num_runner_ups + 1]
    return array(TOKEN_TYPECODE, (int(i) for i in order if scores[i] > -np.inf))


def _gap(scores: Row, token: int, runner_ups: TokenArray) -> float:
    return float(scores[token] - scores[runner_ups[0]]) if runner_ups else math.inf


def _normalised(law: Row) -> Row:
    normalised: Row = law - (law.max() + np.log(np.exp(law - law.max()).sum()))
    return normalised


def _logprobs(law: Row, token: int, num_top: int) -> TokenLogprobs:
    normalised = _normalised(law)
    order = np.argsort(-normalised, kind="stable")[:num_top]
    return TokenLogprobs(
        token=token,
        logprob=float(normalised[token]),
        top=tuple((int(i), float(normalised[i])) for i in order),
    )
