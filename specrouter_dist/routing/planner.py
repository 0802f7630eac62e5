"""Which chain, with which draft lengths: the least predicted time per token (DESIGN: section 8).

Lock-step cost of a stage i that is fed ``g`` proposals a round by an upstream which needs
``tau`` per token: ``tau_i = (g * tau + v_i(g + 1) + hop) / E(g)``, with ``v_i(n)`` the time of a
forward of n rows and ``E(g)`` the expected tokens of a round. For the drafter ``g * tau`` is the
measured time of a block, which has a constant part. A stage's stream does not depend on what is
above it, so the best way to produce it is nearly an optimal substructure: a dynamic programme
over the last stage proposes chains, the cost of the full chain ranks them.

With overlap the target's upstream drafts the next block during the verify, on the chance that all
of this one and the bonus token are what it went on with. What that saves is a table of the
simulator's (routing/async_cost.py); the verify may be slower meanwhile.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise, product
from math import isfinite
from typing import NamedTuple

import numpy as np

from specrouter_dist.config import EdgeKnobs, Plan
from specrouter_dist.routing.agreement import AgreementTable
from specrouter_dist.routing.async_cost import AsyncCost
from specrouter_dist.routing.costs import LENGTHS, Costs, Floats, Regime
from specrouter_dist.routing.latency import LatencyTable
from specrouter_dist.routing.pace import PaceTable
from specrouter_dist.routing.replay import OWN_TEXT_MATCHES

_KEPT_WAYS = 3
"""Ways to produce a member's stream that are extended; the best ones."""
_RANKED_CHAINS = 8
"""Chains whose full cost is computed, the best by the dynamic programme."""
_DRAFTING_AHEAD = AsyncCost.load(len(LENGTHS))
_TYPICAL = 3
"""Index of the length at which the times of a block and of a verify are compared."""
_LEAST_PATIENCE_MS = 50.0
_PATIENCE_ROUNDS = 4.0
_UNKNOWN_PATIENCE_MS = 1000.0


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
    match_tokens: int = 0
    """The target continues its own text where so many tokens match; 0: never."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a plan is expected to cost."""

    token_us: float
    """Time per token of each request's stream, corrected by what was measured."""
    round_us: float
    """Time per round of the target, from the parts of the round alone."""


@dataclass(frozen=True, slots=True)
class Planner:
    """Ranks the chains of a pool.

    Attributes:
        members: names of the models; the last is the target.
        lookups: names of the members without a model.
        devices: where each model runs; members of one device do not work at the same time.
    """

    members: tuple[str, ...]
    lookups: tuple[str, ...]
    devices: Mapping[str, str]
    latency: LatencyTable
    agreement: AgreementTable
    paces: PaceTable

    def candidates(self, regime: Regime) -> list[Candidate]:
        """The best chains and the target alone, best first; none while times are unknown."""
        costs = self._costs(regime)
        if not costs.is_known(costs.target):
            return []
        return self._rank(costs, self._promising_chains(costs))

    def rank(self, chains: Iterable[Sequence[str]], regime: Regime) -> list[Candidate]:
        """These chains with their best knobs, best first. All times must be known."""
        return self._rank(self._costs(regime), chains)

    def _rank(self, costs: Costs, chains: Iterable[Sequence[str]]) -> list[Candidate]:
        found = [self._evaluate(costs, chain) for chain in chains]
        return sorted(found, key=lambda candidate: candidate.predicted_us)

    def evaluate(self, chain: Sequence[str], regime: Regime) -> Candidate | None:
        """``chain`` with its best knobs; None if a member's times are unknown."""
        costs = self._costs(regime)
        return self._evaluate(costs, chain) if self._is_known(costs, chain) else None

    def predict(self, plan: Plan, regime: Regime) -> Prediction | None:
        """What a plan costs with the knobs that it has; None if times are unknown."""
        costs = self._costs(regime)
        if not self._is_known(costs, plan.chain):
            return None
        tau_us = round_us = costs.alone_us(costs.target)
        for i, (draft, verifier) in enumerate(pairwise(plan.chain)):
            knobs = plan.edges[i]
            way = _Way(verifier == costs.target and plan.drafts_ahead, knobs.match_tokens)
            rounds_us, tokens = _rounds(costs, draft, verifier, tau_us if i else None, way)
            round_us = float(rounds_us[knobs.patience - 1])
            tau_us = round_us / float(tokens[knobs.patience - 1])
        ratio = self.paces.ratio(plan.chain, regime.num_sessions)
        return Prediction(tau_us * ratio, round_us)

    def _evaluate(self, costs: Costs, chain: Sequence[str]) -> Candidate:
        candidate = _with_best_lengths(costs, chain)
        ratio = self.paces.ratio(candidate.chain, costs.regime.num_sessions)
        return replace(candidate, predicted_us=candidate.predicted_us * ratio)

    def _is_known(self, costs: Costs, chain: Sequence[str]) -> bool:
        return all(member in self.lookups or costs.is_known(member) for member in chain)

    def _costs(self, regime: Regime) -> Costs:
        lookups = frozenset(self.lookups)
        return Costs(regime, self.members[-1], lookups, self.devices, self.latency, self.agreement)

    def _promising_chains(self, costs: Costs) -> Iterator[tuple[str, ...]]:
        """The dynamic programme: the best ways to the target's stream, and the target alone."""
        known = [m for m in self.members[:-1] if costs.is_known(m)]
        # A verifier slower than what it drafts for cannot pay; order by speed.
        known.sort(key=costs.alone_us)
        ways = _Ways(costs, [*self.lookups, *known])
        for member in known:
            ways.add(member)
        yield (costs.target,)
        yield from ways.best(costs.target, _RANKED_CHAINS)


class _Ways:
    """The best few ways to produce each member's stream, as arrays."""

    def __init__(self, costs: Costs, drafts: Sequence[str]) -> None:
        self._costs = costs
        self._drafts = drafts
        self._rows = {draft: row for row, draft in enumerate(drafts)}
        self._chains: list[tuple[str, ...]] = []
        most = len(drafts) * _KEPT_WAYS
        self._last = np.empty(most, dtype=np.intp)
        """Row of the member whose stream it is."""
        self._blocks_us = np.empty((most, len(LENGTHS)))
        for lookup in costs.lookups:
            self._append((lookup,), costs.drafting_us(lookup))

    def add(self, member: str) -> None:
        """The member by itself, and verifying the best of those already here."""
        extended = self._extend(member, _KEPT_WAYS - 1)
        self._append((member,), self._costs.drafting_us(member))
        for tau_us, chain in extended:
            self._append(chain, tau_us * LENGTHS)

    def best(self, verifier: str, count: int) -> Iterator[tuple[str, ...]]:
        """The best chains that end in ``verifier``."""
        return (chain for _, chain in self._extend(verifier, count))

    def _append(self, chain: tuple[str, ...], blocks_us: Floats) -> None:
        at = len(self._chains)
        self._chains.append(chain)
        self._last[at] = self._rows[chain[-1]]
        self._blocks_us[at] = blocks_us

    def _extend(self, verifier: str, count: int) -> list[tuple[float, tuple[str, ...]]]:
        """The best ways of this verifier at their best length: time per token and chain."""
        num_ways = len(self._chains)
        if not num_ways:
            return []
        last = self._last[:num_ways]
        drafts = self._drafts[: last.max() + 1]
        hops_us = np.array([self._costs.hop_us(draft, verifier) for draft in drafts])
        fixed_us = hops_us[:, None] + self._costs.verifying_us(verifier)
        rounds_us = self._blocks_us[:num_ways] + fixed_us[last]
        taus_us = (rounds_us / self._costs.tokens(drafts, verifier)[last]).min(axis=1)
        order = np.argsort(taus_us, kind="stable")[:count]
        return [(float(taus_us[way]), (*self._chains[way], verifier)) for way in order]


class _Way(NamedTuple):
    """How a round of the target goes."""

    ahead: bool = False
    """The next block is drafted during the verify."""
    match_tokens: int = 0


def _ways(costs: Costs, draft: str, verifier: str) -> Iterator[_Way]:
    """Ways in which ``verifier`` can be drafted for."""
    yield _Way()
    if verifier != costs.target or draft in costs.lookups:
        return
    matches = (m for m in (0, *OWN_TEXT_MATCHES) if not m or costs.own_text(draft, m))
    for match_tokens, ahead in product(matches, (False, True)):
        if (match_tokens or ahead) and (not ahead or costs.can_overlap(draft)):
            yield _Way(ahead, match_tokens)


def _with_best_lengths(costs: Costs, chain: Sequence[str]) -> Candidate:
    """The chain with its best lengths and its best way of drafting for the target.

    Each level is optimised on its own, drafter first.
    """
    if len(chain) == 1:
        return Candidate(tuple(chain), (), costs.alone_us(chain[0]))
    lengths: list[int] = []
    tau_us: float | None = None
    best_way = _Way()
    for draft, verifier in pairwise(chain):
        found: list[tuple[float, int, _Way]] = []
        for way in _ways(costs, draft, verifier):
            rounds_us, tokens = _rounds(costs, draft, verifier, tau_us, way)
            times_us = rounds_us / tokens
            best = int(times_us.argmin())
            found.append((float(times_us[best]), best + 1, way))
        tau_us, length, best_way = min(found)
        lengths.append(length)
    assert tau_us is not None
    return Candidate(tuple(chain), tuple(lengths), tau_us, best_way.ahead, best_way.match_tokens)


def _rounds(
    costs: Costs, draft: str, verifier: str, tau_us: float | None, way: _Way
) -> tuple[Floats, Floats]:
    """Time of the verifier's rounds and the tokens that they yield, by draft length.

    Args:
        tau_us: time per token of the draft's stream; None: it drafts by itself.
    """
    blocks_us = costs.drafting_us(draft) if tau_us is None else tau_us * LENGTHS
    blocks_us = blocks_us + costs.hop_us(draft, verifier)
    forwards_us = costs.verifying_us(verifier, draft if way.ahead else None)
    curve = costs.curve(draft, verifier)
    tokens = np.array(curve.tokens[1 : len(LENGTHS) + 1])
    if way.ahead:
        verify_us, hop_us = float(forwards_us[_TYPICAL]), costs.hop_us(draft, verifier)
        draft_us = float(blocks_us[_TYPICAL] - hop_us) / float(LENGTHS[_TYPICAL])
        saved = 1 - _DRAFTING_AHEAD.at(curve.mean, draft_us / verify_us, hop_us / verify_us)
        blocks_us = blocks_us - saved * (blocks_us + forwards_us)
    own_text = costs.own_text(draft, way.match_tokens) if way.match_tokens else None
    if own_text is None:
        return blocks_us + forwards_us, tokens
    share = own_text.share
    mixed = share * own_text.tokens + (1 - share) * own_text.drafted_tokens
    return (1 - share) * blocks_us + forwards_us, mixed


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
                match_tokens=candidate.match_tokens if is_last else 0,
            )
        )
        overshoot = length
    return Plan(number=number, chain=candidate.chain, edges=tuple(edges), threads=threads)
