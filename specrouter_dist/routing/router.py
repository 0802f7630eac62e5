"""The router's state and decisions, without the process that it lives in."""

from collections.abc import Sequence
from dataclasses import replace

from specrouter_dist.config import Plan
from specrouter_dist.routing.agreement import AgreementTable
from specrouter_dist.routing.latency import LatencyTable
from specrouter_dist.routing.observations import Observations, PairKey
from specrouter_dist.routing.planner import Candidate, Planner, Regime, to_plan
from specrouter_dist.routing.plans import LOADS, Ladder, PlanTable, Rung

_HYSTERESIS = 0.05
"""A chain replaces the present one when it is predicted to be faster by this share."""
_SCALES = (0.2, 0.4, 0.6, 0.8, 1.15)
"""Agreement of requests, relative to the usual, that have a plan of their own."""
_LEAST_GAIN = 0.05
"""What a chain must promise over the target alone: it costs more of the machine, and under load
predictions are off by about as much."""


def _worth_it(ways: Sequence[Candidate]) -> Candidate:
    """The fastest, or the target alone where the gain is too small."""
    best = min(ways, key=lambda way: way.predicted_us)
    alone = next((way for way in ways if len(way.chain) == 1), best)
    return best if best.predicted_us < (1 - _LEAST_GAIN) * alone.predicted_us else alone


class Router:
    """Takes observations, gives plan tables.

    Args:
        models: names of the members with a model; the last is the target.
        lookups: names of the members without.
        hop_us: what a round pays for crossing between two members, there and back, until it has
            been observed.
        overlap: whether a member can work while another one does.
        threads: CPU threads of a forward.
    """

    def __init__(
        self,
        models: Sequence[str],
        lookups: Sequence[str],
        *,
        hop_us: float,
        overlap: bool,
        threads: int = 1,
    ) -> None:
        self.latency = LatencyTable(hop_us)
        self.agreement = AgreementTable()
        self._planner = Planner(
            tuple(models), tuple(lookups), overlap, self.latency, self.agreement
        )
        self._threads = threads
        self._number = 0
        self._turn = 0
        self.table = PlanTable.only(Plan(chain=(models[-1],), threads=threads))

    def observe(self, observations: Observations) -> None:
        """Takes what a worker has measured."""
        take = self.latency.profile if observations.is_profile else self.latency.observe
        for forward, times in observations.forwards.items():
            take(forward, times)
        for wait, times in observations.waits.items():
            self.latency.observe_wait(wait, times)
        for pair, survival in observations.pairs.items():
            self.agreement.record(pair, survival)

    def candidates(self, *, greedy: bool) -> list[Candidate]:
        """All chains with their predicted times for one request alone, best first."""
        return self._planner.candidates(Regime(greedy))

    def plan_of(self, chain: Sequence[str], *, greedy: bool) -> Plan:
        """A plan for a chain that the user has named, with the best draft lengths known."""
        candidate = self._planner.evaluate(chain, Regime(greedy))
        if candidate is None:
            candidate = Candidate(tuple(chain), (4,) * (len(chain) - 1), float("inf"))
        return self._to_plan(candidate)

    def decide(self) -> PlanTable | None:
        """A new table if for some regime and load a better choice is known than the present."""
        present = (*self.table.greedy, *self.table.sampled)
        regimes = [Regime(greedy, load) for greedy in (True, False) for load in LOADS]
        loads = self._loads_of_this_turn()
        found = [
            self._choose(ladder, regime) if regime.num_sessions in loads else None
            for ladder, regime in zip(present, regimes, strict=True)
        ]
        if not any(found):
            return None
        self._number += 1
        chosen = tuple(
            (new or old).numbered(self._number) for new, old in zip(found, present, strict=True)
        )
        self.table = PlanTable(chosen[: len(LOADS)], chosen[len(LOADS) :])
        return self.table

    def _loads_of_this_turn(self) -> tuple[int, ...]:
        """One request alone, and the other loads in turn: a decision must stay cheap."""
        self._turn += 1
        return LOADS if self._turn == 1 else (LOADS[0], LOADS[1 + self._turn % (len(LOADS) - 1)])

    def _choose(self, ladder: Ladder, regime: Regime) -> Ladder | None:
        """None: the present choice stays."""
        candidates = self._planner.candidates(regime)
        if not candidates:
            return None
        best, present = _worth_it(candidates), ladder.plan
        lengths = tuple(edge.patience for edge in present.edges)
        overlap = any(edge.window > edge.burst for edge in present.edges)
        ours = self._planner.predict(present.chain, lengths, overlap, regime)
        # A chain is left for the target alone as soon as it promises a loss.
        least = 1.0 if len(best.chain) == 1 else 1 - _HYSTERESIS
        if ours is not None and best.predicted_us >= least * ours.predicted_us:
            return None
        return self._ladder(best, regime)

    def _ladder(self, usual: Candidate, regime: Regime) -> Ladder:
        """The same chain for requests that agree more or less, or the target alone."""
        plan = self._to_plan(usual)
        if len(usual.chain) == 1:
            return Ladder.only(plan)
        alone = self._planner.evaluate(usual.chain[-1:], regime)
        rungs = [Rung(1.0, plan)]
        for scale in _SCALES:
            drafted = self._planner.evaluate(usual.chain, replace(regime, scale=scale))
            ways = [way for way in (drafted, alone) if way is not None]
            rungs.append(Rung(scale, self._to_plan(_worth_it(ways))))
        draft, verifier = usual.chain[-2:]
        agreement = self.agreement.mean(PairKey(draft, verifier, regime.greedy))
        return Ladder(plan, agreement, tuple(rungs))

    def _to_plan(self, candidate: Candidate) -> Plan:
        return to_plan(candidate, self._number, self._threads)
