"""What a stage's worker asks of a model, whatever runs it."""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from specrouter_dist.config import SamplingParams
from specrouter_dist.routing.similarity import SparseRows
from specrouter_dist.speculation.messages import TOKEN_TYPECODE, TokenArray
from specrouter_dist.speculation.tiers import Weight


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What the rest of the system needs to know of a loaded member."""

    vocab_size: int
    context_tokens: int
    """Longest sequence the model and its KV cache can hold."""
    num_parameters: int
    weight_bytes: int
    kv_bytes: int
    """Size of the whole KV cache, allocated once."""
    max_sessions: int


@dataclass(frozen=True, slots=True)
class Extension:
    """One session's part of a ragged batch.

    ``tokens`` are fed at positions ``[start, start + len(tokens))``. What the cache held from
    ``start`` on is no longer valid: giving a smaller ``start`` *is* the rollback.
    """

    slot: int
    start: int
    tokens: TokenArray
    num_picks: int
    """The model's own tokens are wanted after each of the last ``num_picks`` fed tokens."""
    num_drafts: int = 0
    """Further tokens to draw one after the other behind the last pick, each fed in turn but the
    last. Fewer come back when one of them is a stop token."""
    num_runner_ups: int = 0
    """Next-best tokens wanted beside every pick and draft."""
    sparse_rows: tuple[int, ...] = ()
    """Picks, counted from 0 and without drafts, of which the model's law is wanted."""
    followers: Sequence[int] = ()
    """``followers[i]`` stands behind ``tokens[i]``: its log-probability there is wanted, beside
    those of as many likeliest ids as the session's ``prompt_logprobs`` says."""
    weighed: Sequence[int] = ()
    """``weighed[i]`` stands where pick ``i`` would: its weight there is wanted. Not with drafts."""

    @property
    def first_pick(self) -> int:
        """Position of the first pick."""
        return self.start + len(self.tokens) - self.num_picks + 1

    @property
    def wants_tokens_only(self) -> bool:
        """Whether picks and drafts are all that is wanted."""
        return not (self.num_runner_ups or self.sparse_rows or self.followers or self.weighed)

    def draft_step(self, start: int, token: int) -> "Extension":
        """Feeds ``token``, drawn for position ``start``, and asks for one pick like the others."""
        return Extension(
            self.slot,
            start,
            array(TOKEN_TYPECODE, (token,)),
            num_picks=1,
            num_runner_ups=self.num_runner_ups,
        )


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """Log-probabilities at one position, of the model's law before temperature (natural log)."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...]
    """The likeliest ids, best first."""


@dataclass(frozen=True, slots=True)
class Picks:
    """The model's own tokens at positions ``[start + len(tokens) - num_picks + 1, ...)``.

    All fields but the last three have one entry for each position, or none if nobody asked.
    """

    tokens: TokenArray
    logprobs: tuple[TokenLogprobs, ...] = ()
    """Wanted by the session's sampling parameters."""
    runner_ups: tuple[TokenArray, ...] = ()
    """What would have been drawn if the pick, and then each better runner-up, had been impossible:
    the next-best ids under the score that the pick is the argmax of (the shaped law and the shared
    noise), best first. Fewer where the law has not as many ids."""
    gaps: tuple[float, ...] = ()
    """Comes with runner-ups: by how much the pick's score is above that of the best of them, in
    nats (over the temperature, if that is not 0); infinite where there is none."""
    sparse_rows: SparseRows | None = None
    """The model's laws at the positions that were asked for: before logit bias, penalties and
    temperature, so that they say the same for every kind of request."""
    follower_logprobs: tuple[TokenLogprobs, ...] = ()
    """One for each of the extension's followers."""
    weights: tuple[Weight, ...] = ()
    """One for each of the extension's weighed tokens."""

    def __add__(self, later: "Picks") -> "Picks":
        """These and drafts behind them."""
        return Picks(
            self.tokens + later.tokens,
            self.logprobs + later.logprobs,
            self.runner_ups + later.runner_ups,
            self.gaps + later.gaps,
            self.sparse_rows,
            self.follower_logprobs,
            self.weights,
        )


class Engine(Protocol):
    """One member on one device. Called from one thread only."""

    @property
    def info(self) -> ModelInfo: ...

    @property
    def kv_share(self) -> float:
        """Share of the KV cache that is in use, or kept for later sessions; 0 to 1."""
        ...

    def open(self, sampling: SamplingParams, prompt_tokens: int, max_total_tokens: int) -> int:
        """Reserves a slot and KV blocks for up to ``max_total_tokens`` positions.

        ``prompt_tokens`` says where the output begins (presence and frequency penalties).

        Raises:
            NoRoomError: slots or blocks are used up.
        """
        ...

    def reuse(self, slot: int, tokens: TokenArray) -> int:
        """Fills a session that has been fed nothing with what others published of ``tokens``.

        Returns:
            the length of the prefix that is cached now, below ``len(tokens)``; 0 if nothing is
            known, or the engine keeps nothing.
        """
        ...

    def publish(self, slot: int, tokens: TokenArray) -> None:
        """Lets later sessions reuse the slot's first ``len(tokens)`` positions, which were fed
        exactly ``tokens``."""
        ...

    def extend(self, batch: Sequence[Extension]) -> list[Picks]:
        """Feeds every session's tokens in one forward and returns the picks, in order."""
        ...

    def fork(self, slot: int, length: int, max_total_tokens: int | None = None) -> int:
        """A new slot that shares the first ``length`` positions of ``slot``'s cache.

        It has room for ``max_total_tokens`` positions; None: for as many as ``slot``.
        """
        ...

    def close(self, slot: int) -> None:
        """Frees the slot and its blocks."""
        ...

    def set_threads(self, num_threads: int) -> None:
        """How many CPU threads the next forwards use."""
        ...
