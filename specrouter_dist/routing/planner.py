"""Which chain, with which draft lengths: the least predicted time per token (DESIGN: section 8).

A stage's stream does not depend on what is above it, so the best way to produce it is nearly an
optimal substructure: a dynamic programme over the last stage proposes chains, with the lock-step
cost of a stage i that is fed ``g`` proposals a round by an upstream which needs ``tau`` per token,
``tau_i = (g * tau + v_i(g + 1) + hop) / E(g)``. The cost of the full chain, round by round
(routing/rounds.py), ranks them.
"""

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import pairwise
from math import inf, isfinite

import numpy as np

from specrouter_dist.config import EdgeKnobs, Plan
from specrouter_dist.routing.agreement import AgreementTable
from specrouter_dist.routing.costs import LENGTHS, MAX_DRAFT_TOKENS, Costs, Drafts, Floats, Regime
from specrouter_dist.routing.knobs import Chain, best_settings
from specrouter_dist.routing.latency import LatencyTable
from specrouter_dist.routing.pace import PaceTable
from specrouter_dist.routing.rounds import Rounds, Way, burst_and_window
from specrouter_dist.routing.runs import Blocks, Taking
from specrouter_dist.routing.state import Manner

_KEPT_WAYS = 3
"""Ways to produce a member's stream that are extended; the best ones."""
_RANKED_CHAINS = 6
"""Most chains whose full cost is computed, the best by the dynamic programme,"""
_MOST_UNDERRATED = 1.4
"""and by it no slower than the best of them by more than this."""
_DEAREST_DRAFT = 0.8
"""Of a drafter's own step: what the step of one that drafts for it costs at most. Members of about
one size do not save each other anything; where there are many, what little is known of some pair
would always make it look as if."""
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
    aheads: tuple[int, ...] = ()
    """Per edge: blocks that are taken at once where they were drafted ahead; 0: in lock-step."""
    match_tokens: tuple[int, ...] = ()
    """Per edge: the verifier continues its own text where so many tokens match; 0: never."""
    devices_us: float = 0.0
    """Time of all devices per token."""

    def takings(self) -> Iterator[tuple[int, int, int]]:
        """Per edge the length, what is taken at most in one verify, and the window."""
        overshoot = 0
        aheads = self.aheads or (0,) * len(self.num_draft_tokens)
        for length, ahead in zip(self.num_draft_tokens, aheads, strict=True):
            burst, window = burst_and_window(length, ahead, overshoot)
            yield length, int(burst), int(window)
            overshoot = length


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a plan is expected to cost."""

    predicted_us: float
    """Time per token of each request's stream, corrected by what was measured."""
    devices_us: float
    """Time of all devices per token."""
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
    away: Set[str] = frozenset()
    """Drafters that are not there now: in no chain that is proposed."""

    def candidates(self, regime: Regime, most: int = _RANKED_CHAINS) -> list[Candidate]:
        """The ``most`` best chains by the dynamic programme and the target alone, best first by
        their full cost; none while times are unknown."""
        costs = self._costs(regime)
        if not costs.is_known(costs.target):
            return []
        found = self._evaluate(costs, list(self._promising_chains(costs, most)))
        return sorted(found, key=lambda way: regime.price_us(way.predicted_us, way.devices_us))

    def evaluate(self, chain: Sequence[str], regime: Regime) -> Candidate | None:
        """``chain`` with its best knobs; None if a member's times are unknown."""
        costs = self._costs(regime)
        is_known = self._is_known(costs, chain)
        return next(self._evaluate(costs, [tuple(chain)])) if is_known else None

    def predict(self, plan: Plan, regime: Regime) -> Prediction | None:
        """What a plan costs with the knobs that it has; None if times are unknown, a member is
        away, or blocks are longer than any that are considered."""
        costs = self._costs(regime)
        is_too_long = any(knobs.patience > MAX_DRAFT_TOKENS for knobs in plan.edges)
        is_away = not self.away.isdisjoint(plan.chain)
        if is_too_long or is_away or not self._is_known(costs, plan.chain):
            return None
        tau_us = round_us = costs.alone_us(costs.target)
        devices_us = tau_us / regime.num_sessions
        blocks = Blocks.drawn(costs.drafting_us(plan.chain[0])) if plan.edges else None
        for knobs, (draft, verifier) in zip(plan.edges, pairwise(plan.chain), strict=True):
            assert blocks is not None
            at = 0, 0, max(1, knobs.patience) - 1
            taking = Taking(*(np.full((1, 1, 1), float(k)) for k in (knobs.burst, knobs.window)))
            way = Way(draft, verifier, blocks, match_tokens=knobs.match_tokens)
            rounds = Rounds.of(costs, [way], taking)
            round_us, tau_us = float(rounds.times_us[at]), float(rounds.taus_us[at])
            devices_us = float(rounds.token_devices_us(regime.num_sessions)[at])
            blocks = rounds.blocks([at])
        ratio = self.paces.ratio(manner_of(plan), regime.num_sessions)
        return Prediction(tau_us * ratio, devices_us * ratio, round_us)

    def _evaluate(self, costs: Costs, chains: Sequence[Chain]) -> Iterator[Candidate]:
        """Each with its best knobs, its times corrected by what was measured."""
        num_sessions = costs.regime.num_sessions

        def pace(chain: Chain, is_ahead: bool) -> float:
            return self.paces.ratio(Manner(chain, is_ahead), num_sessions)

        settings = best_settings(costs, [chain for chain in chains if len(chain) > 1], pace)
        for chain in chains:
            if len(chain) == 1:
                alone_us = costs.alone_us(chain[0]) * pace(chain, False)
                yield Candidate(chain, (), alone_us, devices_us=alone_us / num_sessions)
                continue
            best = settings[chain]
            lengths, aheads, matches = zip(*best.edges, strict=True)
            ratio = pace(chain, aheads[-1] > 0)
            times_us = best.predicted_us * ratio, best.devices_us * ratio
            yield Candidate(chain, lengths, times_us[0], aheads, matches, times_us[1])

    def _is_known(self, costs: Costs, chain: Sequence[str]) -> bool:
        return all(member in self.lookups or costs.is_known(member) for member in chain)

    def _costs(self, regime: Regime) -> Costs:
        lookups = frozenset(self.lookups)
        return Costs(regime, self.members[-1], lookups, self.devices, self.latency, self.agreement)

    def _promising_chains(self, costs: Costs, most: int) -> Iterator[tuple[str, ...]]:
        """The dynamic programme: the best ways to the target's stream, and the target alone."""
        known = [m for m in self.members[:-1] if costs.is_known(m) and m not in self.away]
        # A verifier slower than what it drafts for cannot pay; order by speed.
        known.sort(key=costs.alone_us)
        ways = _Ways(costs, [*self.lookups, *known])
        for member in known:
            ways.add(member)
        yield (costs.target,)
        yield from ways.best(costs.target, most)


class _Ways:
    """The best few ways to produce each member's stream, as arrays."""

    def __init__(self, costs: Costs, drafts: Sequence[str]) -> None:
        self._costs = costs
        self._drafts = Drafts.of(drafts)
        self._chains: list[tuple[str, ...]] = []
        most = len(drafts) * _KEPT_WAYS
        self._last = np.empty(most, dtype=np.intp)
        """Row of the member whose stream it is."""
        self._steps_us = np.empty(most)
        """Of that member."""
        self._blocks_us = np.empty((most, len(LENGTHS)))
        for lookup in costs.lookups:
            self._append((lookup,), costs.drafting_us(lookup), 0.0)

    def add(self, member: str) -> None:
        """The member by itself, and verifying the best of those already here."""
        step_us = self._costs.alone_us(member)
        extended = self._extend(member, _KEPT_WAYS - 1, _DEAREST_DRAFT * step_us)
        self._append((member,), self._costs.drafting_us(member), step_us)
        for tau_us, chain in extended:
            self._append(chain, tau_us * LENGTHS, step_us)

    def best(self, verifier: str, count: int) -> Iterator[tuple[str, ...]]:
        """The best chains that end in ``verifier``."""
        return (chain for _, chain in self._extend(verifier, count, inf))

    def _append(self, chain: tuple[str, ...], blocks_us: Floats, step_us: float) -> None:
        at = len(self._chains)
        self._chains.append(chain)
        self._last[at] = self._drafts.rows[chain[-1]]
        self._steps_us[at] = step_us
        self._blocks_us[at] = blocks_us

    def _extend(
        self, verifier: str, count: int, most_step_us: float
    ) -> list[tuple[float, tuple[str, ...]]]:
        """The best ways of this verifier at their best length, by members whose step takes so
        long at most: time per token and chain."""
        (ways,) = np.nonzero(self._steps_us[: len(self._chains)] <= most_step_us)
        if not len(ways):
            return []
        last = self._last[ways]
        hops_us = self._costs.hops_us(self._drafts, verifier)[last, None]
        rounds_us = self._blocks_us[ways] + (hops_us + self._costs.verifying_us(verifier))
        taus_us = (rounds_us / self._costs.tokens(self._drafts, verifier)[last]).min(axis=1)
        order = np.argsort(taus_us, kind="stable")[:count]
        order = order[taus_us[order] <= _MOST_UNDERRATED * taus_us[order[0]]]
        return [(float(taus_us[at]), (*self._chains[ways[at]], verifier)) for at in order]


def _patience_ms(candidate: Candidate, length: int) -> float:
    """Several times what a round takes, however slow the models are."""
    round_ms = candidate.predicted_us * (length + 1) / 1e3
    if not isfinite(round_ms):
        return _UNKNOWN_PATIENCE_MS
    return max(_LEAST_PATIENCE_MS, _PATIENCE_ROUNDS * round_ms)


def manner_of(plan: Plan) -> Manner:
    """As whose its pace is known."""
    return Manner(plan.chain, bool(plan.edges) and plan.edges[-1].drafts_ahead)


def to_plan(candidate: Candidate, number: int) -> Plan:
    """Knobs: a stage waits for its block, and takes what its upstream overshoots."""
    matches = candidate.match_tokens or (0,) * len(candidate.num_draft_tokens)
    edges = tuple(
        EdgeKnobs(
            window=window,
            burst=burst,
            patience=length,
            patience_ms=_patience_ms(candidate, length),
            match_tokens=match_tokens,
        )
        for (length, burst, window), match_tokens in zip(candidate.takings(), matches, strict=True)
    )
    return Plan(number=number, chain=candidate.chain, edges=edges)
