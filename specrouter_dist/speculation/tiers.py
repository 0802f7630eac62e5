"""Tiered, lossy verification: a slim verifier commits tokens before the target sees them.

After VIA-SD (arXiv 2606.12243). By ``r = q'(v) / max q'`` of the slim verifier's law at each
drafted token ``v``: from ``accept`` on the draft's token stands (tier A), from ``escalate`` on the
slim verifier's own (tier B), below the target decides (tier C). Nothing is committed without a
draft. An escalation feeds the target the whole tail that it has not seen, and its pick stands;
where it disagrees with what stands already, that is only counted. It verifies proposals as always
where the budget does not cover them.

The target and the slim verifier are one stage here, of one stream with two lengths of cache: up to
``kv_len`` the target has computed it, and behind, up to ``slim_kv_len``, the slim verifier.
"""

import math
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from specrouter_dist.config import LossyParams
from specrouter_dist.speculation.ending import Ending
from specrouter_dist.speculation.messages import TOKEN_TYPECODE, TokenArray
from specrouter_dist.speculation.stage import Stage
from specrouter_dist.speculation.steps import StageCounts, Step


class Weight(NamedTuple):
    """How likely ids are at one position, as natural logarithms of a model's probabilities before
    temperature."""

    token: float
    """Of the one that was asked about."""
    pick: float
    """Of the model's own."""
    best: float
    """Of the likeliest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TieredStep(Step):
    """A forward of one of the two."""

    by_slim: bool
    weighed: TokenArray
    """``weighed[i]`` stands, or is proposed, where pick ``i`` would: its weight is wanted."""


class Routing(NamedTuple):
    """What becomes of a block of drafted tokens."""

    tokens: TokenArray
    """These stand."""
    in_tier_b: list[bool]
    """One for each of them."""
    logprobs: list[float]
    """The slim verifier's, of each of them."""
    escalates: bool
    """The next position is for the target."""


@dataclass(slots=True)
class TierCounts:
    """What became of the tokens of a request. Counts only grow."""

    accepted: int = 0
    """Tier A: the draft's."""
    slim: int = 0
    """Tier B: the slim verifier's."""
    escalated: int = 0
    """Tier C, and whatever else the target has picked."""
    num_escalations: int = 0
    """How often r was below ``escalate``."""
    num_confirmed: int = 0
    """Of these, how often the target has picked the draft's token."""
    num_disagreements: int = 0
    """Tokens of tiers A and B where the target, fed later, picks another."""
    overshoots: "array[float]" = field(default_factory=lambda: array("f"))
    """By how much the slim verifier's probability of a token of tiers A and B exceeds the target's,
    for each that the target has been fed. It stands for the draft's, which crosses no link."""

    @property
    def num_unverified(self) -> int:
        """Tokens committed without a pick of the target."""
        return self.accepted + self.slim


def route(
    proposed: Sequence[int], picks: Sequence[int], weights: Sequence[Weight], lossy: LossyParams
) -> Routing:
    """What stands of a block, up to the first token that is not as drafted.

    Args:
        proposed: the drafted tokens.
        picks: the slim verifier's own at the same positions.
        weights: its, of ``proposed``.
        lossy: where the tiers begin.
    """
    routing = Routing(array(TOKEN_TYPECODE), [], [], False)
    for token, pick, weight in zip(proposed, picks, weights, strict=False):
        ratio = math.exp(weight.token - weight.best)
        if ratio < lossy.escalate:
            return routing._replace(escalates=True)
        in_tier_b = ratio < lossy.accept
        stands = pick if in_tier_b else token
        routing.tokens.append(stands)
        routing.in_tier_b.append(in_tier_b)
        routing.logprobs.append(weight.pick if in_tier_b else weight.token)
        if stands != token:
            break
    return routing


class TieredStage(Stage):
    """One session of a target and of a slim verifier in its storage.

    Args:
        lossy: where the tiers begin, and the budget. The others are the stage's.
    """

    def __init__(
        self,
        tokens: Sequence[int],
        *,
        lossy: LossyParams,
        prompt_tokens: int,
        end: int,
        ending: Ending,
        kv_len: int = 0,
        chunk_tokens: int = 128,
    ) -> None:
        super().__init__(
            tokens,
            prompt_tokens=prompt_tokens,
            end=end,
            ending=ending,
            kv_len=kv_len,
            chunk_tokens=chunk_tokens,
        )
        self.slim_kv_len = 0
        self.tiers = TierCounts()
        self.slim_counts = StageCounts()
        """Rounds of the slim verifier; ``counts`` has the target's."""
        self.slim_own_counts = StageCounts()
        """Those whose proposals continued the own text."""
        self._lossy = lossy
        self._given_tokens = len(tokens)
        self._escalates = False
        """The next forward is the target's."""
        self._disputed: int | None = None
        """The draft's token at the next position, of tier C."""
        self._behind: tuple[StageCounts, int] = (self.slim_counts, 0)
        """How many were drafted behind that, and who is to count them if they are dropped."""
        self._unseen: array[float] = array("f")
        """The slim verifier's log-probabilities of the tokens from ``kv_len + 1`` on."""

    def next_step(self) -> Step | None:
        """The forward to make now, of either; the target makes the first token."""
        if len(self.tokens) == self._given_tokens:
            return super().next_step()
        if self._step or self._room() < 1 or (self._waits() and not self._escalates):
            return None
        proposals, is_own = self._take_proposals(self._room())
        if self._escalates or not 0 < len(proposals) <= self._allowance():
            # A tail of several forwards is fed to its end.
            self._escalates = True
            useful_tokens = self._room() - 1 if self._disputed is None else 0
            self._step = self._target_step(proposals[:useful_tokens], is_own)
        else:
            self._step = self._slim_step(proposals, is_own)
        return self._step

    def take(self, picks: TokenArray, weights: Sequence[Weight]) -> TokenArray:
        """StepDone: takes the picks, and the weights of what was to be weighed.

        Returns:
            the tokens by which the stream grew.
        """
        step = self._step
        if isinstance(step, TieredStep) and step.by_slim:
            return self._take_of_slim(step, picks, weights)
        if isinstance(step, TieredStep):
            self._compare(step, picks, weights)
        new = self.on_step_done(picks)
        self.tiers.escalated += len(new)
        if new:
            if self._disputed is not None:
                self._settle(is_confirmed=new[0] == self._disputed)
            self._escalates, self._disputed = False, None
        return new

    def _allowance(self) -> int:
        """Tokens that may be committed now without the target: with them their share of the output
        is what it may be."""
        share = self._lossy.max_unverified_share
        if share == 1.0:
            return self._room()
        num_allowed = share * (len(self.tokens) - self._given_tokens) - self.tiers.num_unverified
        # What a division leaves a hair below a whole number is that number.
        return int(num_allowed / (1.0 - share) + 1e-9)

    def _slim_step(self, proposals: TokenArray, is_own: bool) -> TieredStep:
        start, num = max(self.kv_len, self.slim_kv_len), len(proposals)
        fed = self.tokens.slice(start, len(self.tokens)) + proposals
        return TieredStep(start, fed, num + 1, num, 0, is_own, by_slim=True, weighed=proposals)

    def _target_step(self, proposals: TokenArray, is_own: bool) -> TieredStep:
        """All that it has not been fed, if that is not too long for one forward."""
        tail = self.tokens.slice(self.kv_len, len(self.tokens))
        fed, num = tail + proposals, len(proposals)
        if len(tail) > self._chunk_tokens:
            fed, num = tail[: self._chunk_tokens], 0
        known = tail[1 : len(fed) + 1]
        return TieredStep(self.kv_len, fed, len(fed), num, 0, is_own, by_slim=False, weighed=known)

    def _take_of_slim(
        self, step: TieredStep, picks: TokenArray, weights: Sequence[Weight]
    ) -> TokenArray:
        self._step = None
        routing = route(step.weighed, picks, weights, self._lossy)
        new = routing.tokens
        num_kept = self._ending.cut(new)
        if num_kept is not None:
            new = new[:num_kept]
            self._ended = True
        if routing.escalates and not self._ended:
            self._escalates, self._disputed = True, step.weighed[len(new)]
        num_in_tier_b = sum(routing.in_tier_b[: len(new)])
        self.tiers.slim += num_in_tier_b
        self.tiers.accepted += len(new) - num_in_tier_b
        self.tiers.num_escalations += self._escalates
        self._unseen.extend(routing.logprobs[: len(new)])
        self._count_of_slim(step, new)
        self._grow(new)
        num_cached = step.start + self._num_equal(step.start, step.tokens)
        self.slim_kv_len = min(num_cached, len(self.tokens) - 1)
        return new

    def _count_of_slim(self, step: TieredStep, new: TokenArray) -> None:
        is_replaced = new != step.weighed[: len(new)]
        counts = self.slim_own_counts if step.from_own_text else self.slim_counts
        num_judged, rejected = step.num_proposals, is_replaced or self._escalates
        if self._escalates:
            num_judged = len(new) + 1
            self._behind = counts, step.num_proposals - num_judged
        counts.add_round(num_judged, len(new) - is_replaced, rejected=rejected)

    def _settle(self, *, is_confirmed: bool) -> None:
        """The target has picked at the disputed position: what was drafted behind it is proposed
        again, and counted then, or never."""
        self.tiers.num_confirmed += is_confirmed
        if not is_confirmed:
            counts, num_dropped = self._behind
            counts.proposed += num_dropped

    def _compare(self, step: TieredStep, picks: TokenArray, weights: Sequence[Weight]) -> None:
        """The target has been fed tokens that stand already."""
        for token, pick, logprob, weight in zip(
            step.weighed, picks, self._unseen, weights, strict=False
        ):
            self.tiers.num_disagreements += token != pick
            self.tiers.overshoots.append(max(0.0, math.exp(logprob) - math.exp(weight.token)))
        del self._unseen[: len(step.weighed)]
