"""A verifier's rounds, by the length of the block that it waits for.

A round of a stage that verifies blocks of ``g`` proposals takes ``block(g) + v(g + 1) + hop`` and
yields ``E(g)`` tokens, with ``v(n)`` the time of a forward of n rows. A drafter draws as many
tokens as it is asked for; a stage that verifies itself hands down whole rounds: where one token is
waited for, the four that its round has settled come too.

With drafting ahead the next block is drafted during the verify, on the chance that all of this one
and the bonus token are what upstream went on with. What that saves is a table of the simulator's
(routing/async_cost.py); the verify may be slower meanwhile.

Arrays are over ways in which upstream may be run and the length waited for, shape
``[ways, MAX_DRAFT_TOKENS]``.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from typing import NamedTuple, Self

import numpy as np

from specrouter_dist.routing.agreement import Curve
from specrouter_dist.routing.async_cost import AsyncCost
from specrouter_dist.routing.costs import LENGTHS, Costs, Floats, Regime
from specrouter_dist.routing.replay import OWN_TEXT_MATCHES
from specrouter_dist.routing.state import MAX_POSITIONS

_DRAFTING_AHEAD = AsyncCost.load(len(LENGTHS))
_COUNTS = np.arange(MAX_POSITIONS + 1)
_TYPICAL = 3
"""Index of the length at which the times of a block and of a verify are compared."""


class Way(NamedTuple):
    """How a verifier is drafted for."""

    ahead: bool = False
    """The next block is drafted during the verify."""
    match_tokens: int = 0
    """The verifier continues its own text where so many tokens match; 0: never."""


def ways(costs: Costs, draft: str, verifier: str) -> Iterator[Way]:
    """Those that are possible between the two."""
    aheads = (False, True) if costs.can_overlap(draft, verifier) else (False,)
    matches = [0]
    if verifier == costs.target and draft not in costs.lookups:
        matches += [m for m in OWN_TEXT_MATCHES if costs.own_text(draft, m)]
    return (Way(ahead, match) for match, ahead in product(matches, aheads))


@dataclass(frozen=True, slots=True)
class Blocks:
    """What a stage hands down."""

    times_us: Floats
    """Until a block is there."""
    num_tokens: Floats
    """Proposals that it then has, on average."""
    devices_us: Floats
    """Time of all devices that went into it."""

    @classmethod
    def drawn(cls, times_us: Floats) -> Self:
        """By a drafter, which draws a block in so much time."""
        return cls(times_us[None], LENGTHS[None], times_us[None])

    @classmethod
    def joined(cls, ways: Sequence[Self]) -> Self:
        """All ways of these."""
        names = ("times_us", "num_tokens", "devices_us")
        return cls(*(np.concatenate([getattr(way, name) for way in ways]) for name in names))


@dataclass(frozen=True, slots=True)
class Rounds:
    """Of one verifier with one drafter."""

    curve: Curve
    num_proposals: Floats
    times_us: Floats
    num_tokens: Floats
    """That a round yields."""
    devices_us: Floats
    """Time of all devices that goes into a round."""

    @classmethod
    def of(cls, costs: Costs, draft: str, verifier: str, blocks: Blocks, way: Way) -> Self:
        """With the blocks that ``draft`` hands down."""
        curve, num = costs.curve(draft, verifier), blocks.num_tokens
        forwards_us = costs.verifying_us(verifier, draft if way.ahead else None)
        forwards_us = np.interp(num, LENGTHS, forwards_us)
        hop_us = costs.hop_us(draft, verifier)
        waits_us, tokens, drafting_us = blocks.times_us + hop_us, _at(curve, num), blocks.devices_us
        own_text = costs.own_text(draft, way.match_tokens) if way.match_tokens else None
        share = 0.0 if own_text is None else own_text.share
        if way.ahead:
            # Behind a round from the own text the drafter begins anew.
            saved = (1 - share) * _saved(curve, blocks, forwards_us, hop_us)
            waits_us = waits_us - saved * (waits_us + forwards_us)
            # What was drafted behind a proposal that is rejected is drafted again.
            drafting_us = drafting_us * (2 - (_at(curve, num + 1) - tokens))
        if own_text is not None:
            by_length = share * own_text.tokens + (1 - share) * own_text.drafted_tokens
            waits_us, tokens = (1 - share) * waits_us, np.interp(num, LENGTHS, by_length)
            drafting_us = (1 - share) * drafting_us
        return cls(curve, num, waits_us + forwards_us, tokens, drafting_us + forwards_us)

    @property
    def taus_us(self) -> Floats:
        """Time per token."""
        taus_us: Floats = self.times_us / self.num_tokens
        return taus_us

    def token_devices_us(self, num_sessions: int) -> Floats:
        """Time of all devices per token of one of so many sessions."""
        devices_us: Floats = self.devices_us / (num_sessions * self.num_tokens)
        return devices_us

    def prices_us(self, regime: Regime) -> Floats:
        """What is minimised, per token."""
        return regime.price_us(self.taus_us, self.token_devices_us(regime.num_sessions))

    def blocks(self, at: tuple[int, int]) -> Blocks:
        """What the verifier hands down in one way, ``at`` upstream's and its own length.

        The number of rounds until ``n`` tokens are there is a renewal process whose steps are the
        tokens of a round; by Wald's identity a block has rounds times tokens per round.
        """
        yields = _yields(self.curve, float(self.num_proposals[at]))
        num_rounds: list[float] = []
        for _ in LENGTHS:
            # That of n tokens: one round, and then that of n - 1, n - 2, ... with their chances.
            left = zip(yields, reversed(num_rounds), strict=False)
            num_rounds.append(1.0 + sum(chance * rounds for chance, rounds in left))
        counts = np.array(num_rounds)
        per_round = (self.times_us[at], self.num_tokens[at], self.devices_us[at])
        return Blocks(*(counts[None] * each for each in per_round))


def _saved(curve: Curve, blocks: Blocks, forwards_us: Floats, hop_us: float) -> Floats:
    """Share of a round that drafting ahead saves; below 0 it costs."""
    verify_us = forwards_us[:, _TYPICAL]
    draft_us = blocks.times_us[:, _TYPICAL] / blocks.num_tokens[:, _TYPICAL]
    ratios = _DRAFTING_AHEAD.at(curve.mean, draft_us / verify_us, hop_us / verify_us)
    by_way = zip(blocks.num_tokens, ratios, strict=True)
    saved: Floats = 1 - np.array([np.interp(num, LENGTHS, ratio) for num, ratio in by_way])
    return saved


def _at(curve: Curve, num_proposals: Floats) -> Floats:
    """Tokens of a round, linear between whole numbers of proposals."""
    return np.asarray(np.interp(num_proposals, _COUNTS, curve.token_array))


def _yields(curve: Curve, num_proposals: float) -> list[float]:
    """Probabilities that a round yields 1, 2, ... tokens."""
    whole = min(int(num_proposals), len(curve.tokens) - 2)
    tokens = [0.0, *curve.tokens[: whole + 1]]
    tokens.append(tokens[-1] + (num_proposals - whole) * (curve.tokens[whole + 1] - tokens[-1]))
    survival = [*(more - less for less, more in pairwise(tokens)), 0.0]
    return [less - more for less, more in pairwise(survival)]
