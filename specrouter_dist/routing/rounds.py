"""Rounds of verifiers, by the length of the block that each waits for.

A round of a stage that verifies blocks of ``g`` proposals takes ``block(g) + v(g + 1) + hop`` and
yields ``E(g)`` tokens, with ``v(n)`` the time of a forward of n rows. A drafter draws as many
tokens as it is asked for; a stage that verifies itself hands down whole rounds: where one token is
waited for, the four that its round has settled come too. Between two devices upstream goes on
during the verify as far as its window reaches (routing/runs.py); the verify may be slower
meanwhile. Where a stage's own text repeats itself, a round may verify its continuation instead.

Arrays are over how far upstream drafts ahead, ways to feed a verifier, and the length waited for,
shape ``[aheads, ways, MAX_DRAFT_TOKENS]``: numpy takes about as long for many ways as for one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self, TypeVar

import numpy as np

from specrouter_dist.routing.agreement import Curve
from specrouter_dist.routing.costs import MAX_DRAFT_TOKENS, Costs, Floats, Regime
from specrouter_dist.routing.interpolated import Interpolated
from specrouter_dist.routing.replay import OWN_TEXT_MATCHES
from specrouter_dist.routing.runs import Blocks, Round, Taking, Verify, mean_round

_AHEADS = (0, 1, 2, 4)
"""Blocks that a stage takes at once where upstream has drafted them ahead; 0: it drafts in
lock-step. What upstream has made during a verify is free; a long wait for it is not."""
_NUM_TOKENS = np.arange(MAX_DRAFT_TOKENS + 1.0)
_Tokens = TypeVar("_Tokens", int, Floats)


def possible_aheads(costs: Costs, draft: str, verifier: str) -> tuple[int, ...]:
    """How many blocks may be drafted ahead between the two."""
    return _AHEADS if costs.can_overlap(draft, verifier) else _AHEADS[:1]


def possible_matches(costs: Costs, draft: str, verifier: str) -> list[int]:
    """From how many matching tokens on the verifier may continue its own text; 0: never."""
    if draft in costs.lookups:
        return [0]
    return [0, *(m for m in OWN_TEXT_MATCHES if costs.knows_own_text(draft, verifier, m))]


def burst_and_window(
    patience: _Tokens, ahead: _Tokens, overshoot: _Tokens
) -> tuple[_Tokens, _Tokens]:
    """What a stage takes at most in one verify, and how far its upstream drafts.

    Args:
        patience: tokens of a block.
        ahead: blocks that are drafted ahead.
        overshoot: tokens by which upstream may exceed a block: its rounds are not cut.
    """
    burst = patience * np.maximum(1, ahead) + overshoot
    return burst, burst + (patience + 1) * np.minimum(1, ahead)


class Way(NamedTuple):
    """How a verifier is fed."""

    draft: str
    verifier: str
    blocks: Blocks
    """What the drafter hands down"""
    row: int = 0
    """is this row of them."""
    match_tokens: int = 0
    """From so many on the verifier continues its own text; 0: never."""


@dataclass(frozen=True, slots=True)
class Rounds:
    """In the mean."""

    yields: Interpolated
    """Tokens of rounds with proposals from upstream, by their number;"""
    yields_continued: Interpolated
    """of those that continue the own text,"""
    continued: Floats
    """which are such a share of all, shape [ways, 1]."""
    times_us: Floats
    num_tokens: Floats
    """That a round yields."""
    devices_us: Floats
    """Time of all devices that goes into a round."""
    first_us: Floats
    """Time of one that begins with an upstream at rest."""
    held: Floats
    """See :class:`Blocks`."""
    num_proposals: Floats
    """From upstream, where they come from there,"""
    num_continued: Floats
    """and from the own text, where from there."""

    @classmethod
    def of(cls, costs: Costs, ways: Sequence[Way], taking: Taking) -> Self:
        """Either all of these verifiers can verify while their drafters go on, or none can."""
        blocks = Blocks.joined([(way.blocks, way.row) for way in ways])
        owns = [costs.own_text(way.draft, way.verifier, way.match_tokens) for way in ways]
        share = np.array([[own.share] for own in owns])
        own_tokens = Interpolated(np.array([own.tokens for own in owns]))
        verify = _verify(costs, ways, taking, [own.drafted for own in owns], blocks)
        if costs.can_overlap(ways[0].draft, ways[0].verifier):
            # Behind a round from the own text the drafter begins anew.
            mean = mean_round(blocks, taking, verify, 1.0 - share)
        else:
            mean = _in_turn(blocks, verify)
        num, burst, verify_us = mean.num_proposals, taking.burst, verify.time_us(mean.num_proposals)
        # What was drafted behind a proposal that is rejected is drafted again.
        again = taking.is_ahead * (1 - verify.alike.at(num + 1))
        devices_us = verify_us + blocks.devices_us * num / blocks.num_tokens * (1 + again)
        own_us = verify.time_us(burst)
        means = np.broadcast_arrays(
            mean.time_us + share * (own_us - mean.time_us),
            mean.num_tokens + share * (own_tokens.at(burst) - mean.num_tokens),
            devices_us + share * (own_us - devices_us),
            mean.first_us,
            _held(blocks, mean.time_us, verify_us),
            num,
            burst,
        )
        return cls(verify.sum_alike, own_tokens, share, *means)

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

    def blocks(self, at: Sequence[tuple[int, int, int]]) -> Blocks:
        """What verifiers hand down, a row for each of these: how far upstream drafts ahead, the
        way, the index of the length that is waited for."""
        aheads, ways, lengths = (np.array(each) for each in zip(*at, strict=True))

        def picked(of: Floats) -> Floats:
            one: Floats = of[aheads, ways, lengths][:, None]
            return one

        chances = _chances(self.yields.rows(ways), picked(self.num_proposals))
        others = _chances(self.yields_continued.rows(ways), picked(self.num_continued))
        chances += self.continued[ways] * (others - chances)
        per_round = (self.first_us, self.times_us, self.num_tokens, self.devices_us, self.held)
        means = (picked(each) for each in per_round)
        return Blocks.of_rounds(num_rounds(chances), spread(chances), *means)


def _verify(
    costs: Costs, ways: Sequence[Way], taking: Taking, curves: Sequence[Curve], blocks: Blocks
) -> Verify:
    pairs = [(way.draft, way.verifier) for way in ways]
    slowdowns = np.array([[costs.slowdown(*pair)] for pair in pairs])
    return Verify(
        np.array([[costs.hop_us(*pair)] for pair in pairs]),
        np.array([costs.verifying_us(way.verifier) for way in ways]),
        np.where(taking.is_ahead, slowdowns, 1.0),
        curves,
        blocks,
    )


def _in_turn(blocks: Blocks, verify: Verify) -> Round:
    """Nobody drafts ahead."""
    num = blocks.num_tokens
    time_us = blocks.times_us + verify.hop_us + verify.time_us(num)
    return Round(time_us, verify.sum_alike.at(num), num, time_us)


def _held(blocks: Blocks, round_us: Floats, verify_us: Floats) -> Floats:
    """Of a stage's rounds: a forward goes on, and while it waits what upstream is at."""
    wait_us = np.maximum(round_us - verify_us, 0.0)
    upstream_us = np.minimum(blocks.unit_us * blocks.held, wait_us)
    held: Floats = (verify_us**2 + wait_us * upstream_us) / round_us**2
    return held


def _chances(yields: Interpolated, num_proposals: Floats) -> Floats:
    """That a round yields 1, 2, ... tokens, shape [ways, MAX_DRAFT_TOKENS].

    Args:
        yields: of each way.
        num_proposals: the same, shape [ways, 1].
    """
    tokens = yields.at(np.minimum(_NUM_TOKENS, num_proposals))
    survival = np.diff(tokens, prepend=0.0)
    chances: Floats = survival[:, :-1] - survival[:, 1:]
    return chances


def num_rounds(chances: Floats) -> Floats:
    """Until 1, 2, ... tokens are there, if a round yields so many with these chances: the mean of a
    renewal process. By Wald's identity the rounds until then yield tokens per round times as many.
    """
    rounds = np.ones_like(chances)
    for have in range(1, chances.shape[1]):
        # One round, and then those of what is left.
        rounds[:, have] += (chances[:, :have] * rounds[:, have - 1 :: -1]).sum(axis=1)
    return rounds


def spread(chances: Floats) -> Floats:
    """Variance of the tokens that a round yields, per token, shape [ways, 1]; that of a sum of
    rounds grows with it."""
    num_tokens = np.arange(1.0, chances.shape[1] + 1)
    total = chances.sum(axis=1, keepdims=True)
    mean = (chances * num_tokens).sum(axis=1, keepdims=True) / total
    variance: Floats = (chances * (num_tokens - mean) ** 2).sum(axis=1, keepdims=True) / total
    of_each: Floats = variance / mean
    return of_each
