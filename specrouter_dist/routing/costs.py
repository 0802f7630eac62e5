"""What rounds cost in one regime, over the length of the block: the planner's numbers.

Arrays over ``num_proposals = 1..MAX_DRAFT_TOKENS``, made once per decision.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self, TypeVar

import numpy as np
import numpy.typing as npt

from specrouter_dist.routing.agreement import UNKNOWN, AgreementTable, Curve
from specrouter_dist.routing.latency import LatencyTable
from specrouter_dist.routing.observations import PairKey
from specrouter_dist.routing.replay import own_text_names
from specrouter_dist.routing.traffic import Traffic
from specrouter_dist.speculation.runs import run_tokens

Floats = npt.NDArray[np.float64]
_Number = TypeVar("_Number", float, Floats)

MAX_DRAFT_TOKENS = 16
"""Longest block considered."""
_BLOCKS = range(1, MAX_DRAFT_TOKENS + 1)
_ROWS = range(2, MAX_DRAFT_TOKENS + 2)
"""Of a forward over such a block and one more."""
LENGTHS = np.array(_BLOCKS, dtype=np.float64)
_MOST_DEVICE_WEIGHT = 0.1
"""What device time weighs against latency where many requests share the devices."""
_LOOKUP_US = 30.0
"""Time per block of a member without a model."""
_NO_PROPOSALS = np.ones(MAX_DRAFT_TOKENS + 1)
"""Tokens of rounds without proposals, whatever their length."""


@dataclass(frozen=True, slots=True)
class Regime:
    """What is planned for."""

    traffic: Traffic
    num_sessions: int = 1
    """Requests that run at the same time, batched at every member."""
    scale: float = 1.0
    """The target agrees so many times as often as usual."""

    def price_us(self, time_us: _Number, devices_us: _Number) -> _Number:
        """The objective: latency + lambda * device time, both per token.

        Lambda is 0 for a request alone, whose devices nobody else wants, and the larger the more
        requests share them.
        """
        weight = _MOST_DEVICE_WEIGHT * (1 - 1 / self.num_sessions)
        return time_us + weight * devices_us


@dataclass(frozen=True, slots=True)
class OwnTextRounds:
    """Rounds of a verifier that continues its own text where it can, and else asks a drafter."""

    share: float
    """Of the rounds: those from the own text."""
    tokens: Floats
    """That these yield with 0, 1, ... proposals, shape [MAX_DRAFT_TOKENS + 1]."""
    drafted: Curve
    """Agreement in the others."""


@dataclass(frozen=True, slots=True)
class Drafts:
    """Members that may draft, as the rows of arrays."""

    rows: dict[str, int]
    names: frozenset[str]

    @classmethod
    def of(cls, names: Sequence[str]) -> Self:
        """In this order; all lookups are among them."""
        return cls({name: row for row, name in enumerate(names)}, frozenset(names))


@dataclass(slots=True)
class Costs:
    """Times and agreement as arrays.

    Attributes:
        devices: where each model runs; members of one device do not work at the same time.
    """

    regime: Regime
    target: str
    lookups: frozenset[str]
    devices: Mapping[str, str]
    latency: LatencyTable
    agreement: AgreementTable
    _alone: dict[str, float] = field(default_factory=dict)
    _drafting: dict[str, Floats] = field(default_factory=dict)
    _verifying: dict[str, Floats] = field(default_factory=dict)
    _curves: dict[tuple[str, str], Curve] = field(default_factory=dict)
    _hops: dict[str, list[tuple[str, float]]] | None = None
    """Observed ones, by verifier."""
    _own_texts: dict[tuple[str, str, int], OwnTextRounds] = field(default_factory=dict)

    def is_known(self, member: str) -> bool:
        """Whether the member's times are known."""
        knows_steps = self.latency.knows_forwards(member)
        return knows_steps and (member == self.target or self.latency.knows_blocks(member, 1))

    def alone_us(self, member: str) -> float:
        """Time per token of a member that decodes by itself."""
        found = self._alone.get(member)
        if found is None:
            found = self._alone[member] = self._measure_alone(member)
        return found

    def _measure_alone(self, member: str) -> float:
        num_sessions = self.regime.num_sessions
        time_us = self.latency.forward_us(member, 1.0, num_sessions)
        assert time_us is not None, f"the times of {member} are unknown"
        num_tokens = run_tokens(time_us)
        if num_tokens == 1 or not self.latency.knows_blocks(member, num_tokens):
            return time_us
        return float(self.drafting_us(member)[num_tokens - 1]) / num_tokens

    def drafting_us(self, drafter: str) -> Floats:
        """Time of a block that the drafter draws by itself, shape [MAX_DRAFT_TOKENS]."""
        found = self._drafting.get(drafter)
        if found is None:
            found = self._drafting[drafter] = self._measure_drafting(drafter)
        return found

    def verifying_us(self, verifier: str) -> Floats:
        """Time of a forward over the block and one more row, shape [MAX_DRAFT_TOKENS]."""
        found = self._verifying.get(verifier)
        if found is None:
            times = self.latency.forwards_us(verifier, _ROWS, self.regime.num_sessions)
            assert times is not None, f"the times of {verifier} are unknown"
            found = self._verifying[verifier] = times
        return found

    def slowdown(self, draft: str, verifier: str) -> float:
        """By how many times a verify is slower while the next block is drafted."""
        return self.latency.slowdown(draft, verifier)

    def hop_us(self, draft: str, verifier: str) -> float:
        """What a round pays for crossing between the two, there and back."""
        return 0.0 if draft in self.lookups else self.latency.hop_us(draft, verifier)

    def curve(self, draft: str, verifier: str) -> Curve:
        """Agreement of the pair in this regime."""
        found = self._curves.get((draft, verifier))
        if found is None:
            found = self.agreement.curve(PairKey(draft, verifier, self.regime.traffic))
            if verifier == self.target:
                found = found.scaled(self.regime.scale)
            self._curves[draft, verifier] = found
        return found

    def tokens(self, drafts: Drafts, verifier: str) -> Floats:
        """Tokens that rounds yield, shape [num_drafts, MAX_DRAFT_TOKENS]."""
        scale = self.regime.scale if verifier == self.target else 1.0
        known, tokens = self.agreement.known_tokens(drafts.names, verifier, self.regime.traffic)
        found = np.empty((len(drafts.rows), MAX_DRAFT_TOKENS))
        found[:] = _by_length(UNKNOWN.scaled(scale).token_array)
        if known:
            if scale != 1.0:
                tokens = np.array([self.curve(draft, verifier).token_array for draft in known])
            found[[drafts.rows[draft] for draft in known]] = _by_length(tokens)
        return found

    def hops_us(self, drafts: Drafts, verifier: str) -> Floats:
        """What rounds pay for crossing, there and back, shape [num_drafts]."""
        if self._hops is None:
            self._hops = self._hops_by_verifier()
        found = np.full(len(drafts.rows), self.latency.hop_prior_us)
        found[[drafts.rows[lookup] for lookup in self.lookups]] = 0.0
        for draft, hop_us in self._hops.get(verifier, ()):
            if draft in drafts.rows:
                found[drafts.rows[draft]] = hop_us
        return found

    def knows_own_text(self, draft: str, verifier: str, match_tokens: int) -> bool:
        """Whether it is known what ``verifier`` gains by continuing its own text."""
        own, _ = own_text_names(draft, match_tokens)
        return self.agreement.knows(own, verifier)

    def own_text(self, draft: str, verifier: str, match_tokens: int) -> OwnTextRounds:
        """Of ``verifier`` beside ``draft``; with 0 matching tokens, or where nothing is known of
        it, the own text is never continued."""
        key = draft, verifier, match_tokens
        found = self._own_texts.get(key)
        if found is None:
            found = self._own_texts[key] = self._measure_own_text(*key)
        return found

    def _measure_own_text(self, draft: str, verifier: str, match_tokens: int) -> OwnTextRounds:
        if not match_tokens or not self.knows_own_text(draft, verifier, match_tokens):
            return OwnTextRounds(0.0, _NO_PROPOSALS, self.curve(draft, verifier))
        own, drafted = own_text_names(draft, match_tokens)
        curve = self.curve(own, verifier)
        when_matched = Curve.make(curve.conditional, curve.mean, 0.0)
        return OwnTextRounds(
            1.0 - curve.empty,
            when_matched.token_array[: MAX_DRAFT_TOKENS + 1],
            self.curve(drafted, verifier),
        )

    def can_overlap(self, draft: str, verifier: str) -> bool:
        """Whether ``draft`` can draft the next block while ``verifier`` verifies.

        With several sessions one is drafted while another is verified: nobody drafts ahead.
        """
        return (
            self.regime.num_sessions == 1
            and draft not in self.lookups
            and self.devices[draft] != self.devices[verifier]
        )

    def _hops_by_verifier(self) -> dict[str, list[tuple[str, float]]]:
        found: dict[str, list[tuple[str, float]]] = {}
        for (draft, verifier), hop_us in self.latency.observed_hops_us().items():
            if draft not in self.lookups:
                found.setdefault(verifier, []).append((draft, hop_us))
        return found

    def _measure_drafting(self, drafter: str) -> Floats:
        num_sessions = self.regime.num_sessions
        if drafter in self.lookups:
            return np.full(MAX_DRAFT_TOKENS, _LOOKUP_US * num_sessions)
        times = self.latency.blocks_us(drafter, _BLOCKS, num_sessions)
        assert times is not None, f"the times of {drafter} are unknown"
        return times


def _by_length(tokens: Floats) -> Floats:
    """Of :attr:`Curve.tokens` those of blocks that are considered, [..., MAX_DRAFT_TOKENS]."""
    return tokens[..., 1 : MAX_DRAFT_TOKENS + 1]
