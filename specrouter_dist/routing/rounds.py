"""A verifier's rounds, by the length of the block that it waits for.

A round of a stage that verifies blocks of ``g`` proposals takes ``block(g) + v(g + 1) + hop`` and
yields ``E(g)`` tokens, with ``v(n)`` the time of a forward of n rows. A drafter draws as many
tokens as it is asked for; a stage that verifies itself hands down whole rounds: where one token is
waited for, the four that its round has settled come too. Between two devices upstream goes on
during the verify as far as its window reaches (routing/runs.py); the verify may be slower
meanwhile.

Arrays are over how far upstream drafts ahead, ways in which it may be run, and the length waited
for, shape ``[aheads, ways, MAX_DRAFT_TOKENS]``.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Self, TypeVar

import numpy as np

from specrouter_dist.routing.agreement import Curve
from specrouter_dist.routing.costs import LENGTHS, Costs, Floats, OwnTextRounds, Regime
from specrouter_dist.routing.replay import OWN_TEXT_MATCHES
from specrouter_dist.routing.runs import Blocks, Round, Taking, Verify, mean_round

_AHEADS = (0, 1, 2, 4)
"""Blocks that a stage takes at once where upstream has drafted them ahead; 0: it drafts in
lock-step. What upstream has made during a verify is free; a long wait for it is not."""
_Tokens = TypeVar("_Tokens", int, Floats)


def possible_aheads(costs: Costs, draft: str, verifier: str) -> tuple[int, ...]:
    """How many blocks may be drafted ahead between the two."""
    return _AHEADS if costs.can_overlap(draft, verifier) else _AHEADS[:1]


def possible_matches(costs: Costs, draft: str, verifier: str) -> list[int]:
    """From how many matching tokens on the verifier may continue its own text; 0: never."""
    if verifier != costs.target or draft in costs.lookups:
        return [0]
    return [0, *(m for m in OWN_TEXT_MATCHES if costs.own_text(draft, verifier, m))]


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


@dataclass(frozen=True, slots=True)
class Rounds:
    """Of one verifier with one drafter, in the mean."""

    curve: Curve
    num_proposals: Floats
    times_us: Floats
    num_tokens: Floats
    """That a round yields."""
    devices_us: Floats
    """Time of all devices that goes into a round."""
    first_us: Floats
    """Time of one that begins with an upstream at rest."""
    held: Floats
    """See :class:`Blocks`."""

    @classmethod
    def of(
        cls,
        costs: Costs,
        pair: tuple[str, str],
        blocks: Blocks,
        taking: Taking,
        match_tokens: int = 0,
    ) -> Self:
        """Of a drafter and its verifier, with the blocks that the drafter hands down.

        Args:
            match_tokens: from so many on the verifier continues its own text; 0: never.
        """
        own = costs.own_text(*pair, match_tokens) if match_tokens else None
        curve, slower = costs.curve(*pair), np.where(taking.is_ahead, costs.slowdown(*pair), 1.0)
        verify = Verify.of(
            costs.hop_us(*pair),
            costs.verifying_us(pair[1]),
            slower,
            curve if own is None else own.drafted,
        )
        mean = _mean_round(costs, pair, blocks, taking, verify, own)
        num, verify_us = mean.num_proposals, verify.time_us(mean.num_proposals)
        # What was drafted behind a proposal that is rejected is drafted again.
        again = taking.is_ahead * (1 - verify.alike(num + 1))
        devices_us = verify_us + blocks.devices_us * num / blocks.num_tokens * (1 + again)
        held = _held(blocks, mean.time_us, verify_us)
        means: tuple[Floats, ...] = (num, mean.time_us, mean.num_tokens, devices_us)
        if own is not None:
            own_us = verify.time_us(taking.burst)
            others = (taking.burst, own_us, own.tokens_of(taking.burst), own_us)
            both = zip(means, others, strict=True)
            means = tuple((1 - own.share) * each + own.share * other for each, other in both)
        arrays = np.broadcast_arrays(*means, mean.first_us, held, taking.burst)
        return cls(curve, *arrays[:-1])

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

    def blocks(self, at: tuple[int, int, int]) -> Blocks:
        """What the verifier hands down in one way: drafted ahead, upstream run and waited so.

        The number of rounds until ``n`` tokens are there is a renewal process whose steps are the
        tokens of a round; by Wald's identity a block has rounds times tokens per round.
        """
        yields = _yields(self.curve, float(self.num_proposals[at]))
        num_rounds: list[float] = []
        for _ in LENGTHS:
            # That of n tokens: one round, and then that of n - 1, n - 2, ... with their chances.
            left = zip(yields, reversed(num_rounds), strict=False)
            num_rounds.append(1.0 + sum(chance * rounds for chance, rounds in left))
        per_round = (self.first_us, self.times_us, self.num_tokens, self.devices_us, self.held)
        return Blocks.of_rounds(np.array(num_rounds), *(float(each[at]) for each in per_round))


def _mean_round(
    costs: Costs,
    pair: tuple[str, str],
    blocks: Blocks,
    taking: Taking,
    verify: Verify,
    own: OwnTextRounds | None,
) -> Round:
    """Of those whose proposals come from the drafter."""
    if costs.can_overlap(*pair):
        # Behind a round from the own text the drafter begins anew.
        return mean_round(blocks, taking, verify, 1.0 if own is None else 1.0 - own.share)
    num = blocks.num_tokens
    time_us = blocks.times_us + verify.hop_us + verify.time_us(num)
    return Round(time_us, verify.sum_alike(num), num, time_us)


def _held(blocks: Blocks, round_us: Floats, verify_us: Floats) -> Floats:
    """Of a stage's rounds: a forward goes on, and while it waits what upstream is at."""
    wait_us = np.maximum(round_us - verify_us, 0.0)
    upstream_us = np.minimum(blocks.unit_us * blocks.held, wait_us)
    held: Floats = (verify_us**2 + wait_us * upstream_us) / round_us**2
    return held


def _yields(curve: Curve, num_proposals: float) -> list[float]:
    """Probabilities that a round yields 1, 2, ... tokens."""
    whole = min(int(num_proposals), len(curve.tokens) - 2)
    tokens = [0.0, *curve.tokens[: whole + 1]]
    tokens.append(tokens[-1] + (num_proposals - whole) * (curve.tokens[whole + 1] - tokens[-1]))
    survival = [*(more - less for less, more in pairwise(tokens)), 0.0]
    return [less - more for less, more in pairwise(survival)]
