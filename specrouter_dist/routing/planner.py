"""Which chain, with which draft lengths: the least predicted time per token (DESIGN: section 8).

Lock-step cost of a stage i that is fed ``g`` proposals a round by an upstream which needs
``tau`` per token: ``tau_i = (g * tau + v_i(g + 1) + hop) / E(g)``, with ``v_i(n)`` the time of a
forward of n rows and ``E(g)`` the expected tokens of a round. For the drafter ``g * tau`` is the
measured time of a block, which has a constant part. A stage's stream does not depend
on what is above it, so each level is optimised on its own, drafter first.

With overlap the target's upstream drafts the next block during the verify, on the chance that all
of this one and the bonus token are what it went on with; the verify may be slower meanwhile.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from math import isfinite

from specrouter_dist.config import EdgeKnobs, Plan
from specrouter_dist.routing.agreement import AgreementTable
from specrouter_dist.routing.latency import LatencyTable
from specrouter_dist.routing.observations import PairKey

MAX_DRAFT_TOKENS = 16
"""Longest block considered."""
_WORSE_IN_A_ROW = 4
"""So many longer blocks are tried after the best one. Longer ones gain less and less, but the time
of a forward rises in steps."""
_LEAST_PATIENCE_MS = 50.0
_PATIENCE_ROUNDS = 4.0
_UNKNOWN_PATIENCE_MS = 1000.0
_LOOKUP_US = 30.0
"""Time per block of a member without a model."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A chain with its best draft lengths."""

    chain: tuple[str, ...]
    num_draft_tokens: tuple[int, ...]
    """Per edge, the drafter's first."""
    predicted_us: float
    """Time per token of each request's stream."""
    overlap: bool = False
    """The target's next block is drafted while it verifies."""


@dataclass(frozen=True, slots=True)
class Regime:
    """What is planned for."""

    greedy: bool
    num_sessions: int = 1
    """Requests that run at the same time, batched at every member."""
    scale: float = 1.0
    """The target agrees so many times as often as usual."""


@dataclass(frozen=True, slots=True)
class Planner:
    """Ranks the chains of a pool.

    Attributes:
        members: names of the models; the last is the target.
        lookups: names of the members without a model.
        overlap: whether a member can work while another one does.
    """

    members: tuple[str, ...]
    lookups: tuple[str, ...]
    overlap: bool
    latency: LatencyTable
    agreement: AgreementTable

    def candidates(self, regime: Regime) -> list[Candidate]:
        """All chains whose members' times are known, best first."""
        found = [
            candidate
            for chain in self._chains()
            if (candidate := self.evaluate(chain, regime)) is not None
        ]
        return sorted(found, key=lambda candidate: candidate.predicted_us)

    def evaluate(self, chain: Sequence[str], regime: Regime) -> Candidate | None:
        """``chain`` with its best knobs; None if a member's times are unknown."""
        # With several sessions one is drafted while another is verified: nobody drafts ahead.
        can_overlap = self.overlap and regime.num_sessions == 1 and len(chain) > 1
        ways = (False, True) if can_overlap and chain[-2] not in self.lookups else (False,)
        found = [self._with_best_lengths(chain, overlap, regime) for overlap in ways]
        return min(filter(None, found), key=lambda way: way.predicted_us, default=None)

    def _with_best_lengths(
        self, chain: Sequence[str], overlap: bool, regime: Regime
    ) -> Candidate | None:
        lengths: tuple[int, ...] = ()
        for _ in pairwise(chain):
            best: Candidate | None = None
            for length in range(1, MAX_DRAFT_TOKENS + 1):
                option = self.predict(chain, (*lengths, length), overlap, regime)
                if option is None:
                    return None
                if best is None or option.predicted_us < best.predicted_us:
                    best = option
                elif length > best.num_draft_tokens[-1] + _WORSE_IN_A_ROW:
                    break
            assert best is not None
            lengths = best.num_draft_tokens
        return self.predict(chain, lengths, overlap, regime)

    def predict(
        self, chain: Sequence[str], lengths: Sequence[int], overlap: bool, regime: Regime
    ) -> Candidate | None:
        """The time per token of the stage below the last of ``lengths``; None if unknown."""
        num_sessions, tau = regime.num_sessions, None
        if len(chain) == 1:
            tau = self.latency.forward_us(chain[0], 1, num_sessions)
        for (draft, verifier), length in zip(pairwise(chain), lengths, strict=False):
            is_last = verifier == self.members[-1]
            ahead, scale = overlap and is_last, regime.scale if is_last else 1.0
            block_us = length * tau if tau is not None else self._drafting_us(draft, length, regime)
            forward_us = self.latency.forward_us(
                verifier, length + 1, num_sessions, beside=draft if ahead else None
            )
            if block_us is None or forward_us is None:
                return None
            pair = PairKey(draft, verifier, regime.greedy)
            if draft not in self.lookups:
                block_us += self.latency.hop_us(draft, verifier)
            if ahead:
                is_ready = self.agreement.survival(pair, length + 1, scale)
                block_us -= is_ready * min(block_us, forward_us)
            num_tokens = self.agreement.expected_tokens(pair, length, scale)
            tau = (block_us + forward_us) / num_tokens
        return None if tau is None else Candidate(tuple(chain), tuple(lengths), tau, overlap)

    def _drafting_us(self, drafter: str, length: int, regime: Regime) -> float | None:
        if drafter in self.lookups:
            return _LOOKUP_US * regime.num_sessions
        return self.latency.drafting_us(drafter, length, regime.num_sessions)

    def _chains(self) -> Iterator[tuple[str, ...]]:
        target = self.members[-1]
        known = [m for m in self.members[:-1] if self.latency.forward_us(m, 1) is not None]
        # A verifier slower than what it drafts for cannot pay; order by speed.
        known.sort(key=lambda m: self.latency.forward_us(m, 1) or 0.0)
        for count in range(len(known) + 1):
            for between in combinations(known, count):
                yield (*between, target)
                for lookup in self.lookups:
                    yield (lookup, *between, target)


def _patience_ms(candidate: Candidate, length: int) -> float:
    """Several times what a round takes, however slow the models are."""
    round_ms = candidate.predicted_us * (length + 1) / 1e3
    if not isfinite(round_ms):
        return _UNKNOWN_PATIENCE_MS
    return max(_LEAST_PATIENCE_MS, _PATIENCE_ROUNDS * round_ms)


def to_plan(candidate: Candidate, number: int, threads: int) -> Plan:
    """Knobs: a stage waits for its block, and takes what its upstream overshoots."""
    edges: list[EdgeKnobs] = []
    overshoot = 0
    for length in candidate.num_draft_tokens:
        burst = length + overshoot
        is_last = len(edges) == len(candidate.num_draft_tokens) - 1
        ahead = length + 1 if candidate.overlap and is_last else 0
        edges.append(
            EdgeKnobs(
                window=burst + ahead,
                burst=burst,
                patience=length,
                patience_ms=_patience_ms(candidate, length),
            )
        )
        overshoot = length
    return Plan(number=number, chain=candidate.chain, edges=tuple(edges), threads=threads)
