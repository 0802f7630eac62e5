"""The router's state and decisions, without the process that it lives in."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise, product
from typing import TypeVar

from specrouter_dist.config import LookupMember, Plan
from specrouter_dist.routing.agreement import AgreementTable
from specrouter_dist.routing.cadence import Cadence
from specrouter_dist.routing.chooser import Chooser
from specrouter_dist.routing.comparisons import Comparisons
from specrouter_dist.routing.costs import Regime
from specrouter_dist.routing.evidence import Grounds, Source
from specrouter_dist.routing.journal import Decision, Journal, note_blocks
from specrouter_dist.routing.kinds import Kinds
from specrouter_dist.routing.latency import LatencyTable
from specrouter_dist.routing.observations import (
    ForwardKey,
    ForwardTimes,
    LawReading,
    Observations,
    OutcomeCounts,
    OutcomeKey,
    Pace,
    PaceKey,
    PairKey,
    Survival,
)
from specrouter_dist.routing.pace import PaceTable
from specrouter_dist.routing.planner import Candidate, Planner, manner_of, to_plan
from specrouter_dist.routing.plans import LOADS, Ladder, PlanTable
from specrouter_dist.routing.replay import Replays
from specrouter_dist.routing.traffic import Traffic

_FORGET_EVERY_S = 1.0
_OTHERS_EVERY = 3
"""Of so many turns one weighs a kind and a load that were not seen lately, too."""
_KEPT_CANDIDATES = 6
"""Best ones that are kept of each weighing, for people."""

_Key = TypeVar("_Key")
_Measured = TypeVar("_Measured", ForwardTimes, Survival, Pace, OutcomeCounts)


class Router:
    """Takes observations, gives plan tables.

    Args:
        models: names of the members with a model; the last is the target.
        lookups: the members without, by name.
        devices: where each model runs; members of one device do not work at the same time.
        hop_us: what a round pays for crossing between two members, there and back, until it has
            been observed.
    """

    def __init__(
        self,
        models: Sequence[str],
        lookups: Mapping[str, LookupMember],
        devices: Mapping[str, str],
        *,
        hop_us: float,
    ) -> None:
        self.latency = LatencyTable(hop_us)
        self.agreement = AgreementTable()
        self.paces = PaceTable()
        self.journal = Journal()
        self.prepared: dict[OutcomeKey, OutcomeCounts] = {}
        """Of each sampling regime. For people: no decision rests on it."""
        self.num_refused = 0
        """Measurements that cannot be true: not finite, negative, accepted but never reached,
        laws that are none."""
        self._comparisons = Comparisons(models)
        self._replays = Replays(models[-1], lookups)
        self._away: set[str] = set()
        tables = self.latency, self.agreement, self.paces
        self._planner = Planner(tuple(models), tuple(lookups), devices, *tables, self._away)
        self._chooser = Chooser(self._planner)
        self.number = 0
        """Of the newest table."""
        self._turn = 0
        self._forgot_s = -_FORGET_EVERY_S
        self._cadence = Cadence()
        self._kinds = Kinds()
        self._weighed: dict[tuple[Traffic, int], tuple[Candidate, ...]] = {}
        """The best candidates of each kind and load, as last weighed."""
        self.members = (*lookups, *models)
        """All names; the last is the target's."""
        self.table = PlanTable.only(Plan(chain=(models[-1],)))

    # -- measuring -----------------------------------------------------------------------------

    def observe(self, observations: Observations, now_s: float) -> None:
        """Takes what a worker has measured; ``now_s`` only dates it."""
        self._time(observations)
        chained = list(self._plausible(observations.pairs))
        for pair, _ in chained:
            self._see(pair.traffic, now_s)
        self._record(chained, Source.CHAINED, now_s)
        for key, pace in self._plausible(observations.paces):
            self._pace(key, pace, now_s)
        self._count_prepared(observations)
        for reading in observations.readings:
            # Others may read a text long after the request.
            if reading.member == self.members[-1]:
                self._see(reading.traffic, now_s)
            self._record(list(self._replays.add(reading)), Source.REPLAYED, now_s)
        for laws in observations.laws:
            self._compare(laws, now_s)
        self._forget(now_s)

    def _time(self, observations: Observations) -> None:
        forwards = self._plausible(observations.forwards)
        if observations.is_profile:
            for key, times in forwards:
                self.latency.profile(key, times)
            return
        changed = self.latency.observe(forwards)
        for member, factor in changed.items():
            self.paces.on_change(member, factor)
        if self.latency.observe_waits(self._plausible(observations.waits)) or changed:
            self._cadence.hurry()

    def _count_prepared(self, observations: Observations) -> None:
        for key, counts in self._plausible(observations.outcomes):
            wide = key._replace(traffic=Traffic(key.traffic.regime))
            self.prepared.setdefault(wide, OutcomeCounts()).add(counts)

    def _forget(self, now_s: float) -> None:
        # The clock may be set back.
        if not 0.0 <= now_s - self._forgot_s < _FORGET_EVERY_S:
            self._forgot_s = now_s
            self.paces.forget(self.latency.forget())

    def _plausible(self, measured: Mapping[_Key, _Measured]) -> Iterator[tuple[_Key, _Measured]]:
        for key, value in measured.items():
            can_be = not isinstance(key, ForwardKey) or key.is_plausible
            if can_be and value.is_plausible:
                yield key, value
            else:
                self.num_refused += 1

    def _record(
        self, judged: Sequence[tuple[PairKey, Survival]], source: Source, now_s: float
    ) -> None:
        """What was expected is noted of all pairs before anything is learned of one."""
        for pair, survival in judged:
            if source is Source.CHAINED:
                curve = self.agreement.curve(pair)
                note_blocks(self.journal.agreements, pair, curve, survival, now_s)
            if (alike := self.agreement.expected(pair)) is not None:
                note_blocks(self.journal.similarities, pair, alike, survival, now_s)
        for pair, survival in judged:
            self.agreement.record(self._kept(pair), survival, source, now_s)

    def _compare(self, reading: LawReading, now_s: float) -> None:
        if not self._comparisons.is_plausible(reading):
            self.num_refused += 1
            return
        for pair, comparison in self._comparisons.add(reading):
            self.agreement.compare(self._kept(pair), comparison, now_s)

    def _kept(self, pair: PairKey) -> PairKey:
        """As what is learned of the pair is kept."""
        return pair._replace(traffic=self._kinds.narrowest(pair.traffic))

    def _pace(self, key: PaceKey, pace: Pace, now_s: float) -> None:
        self._see(key.traffic, now_s, LOADS.index(key.num_sessions))
        regime = Regime(key.traffic, key.num_sessions)
        prediction = self._planner.predict(key.plan, regime)
        if prediction is None:
            return
        self.paces.observe(manner_of(key.plan), key.num_sessions, prediction.round_us, pace)
        self.journal.note_pace(key, prediction.predicted_us, pace, now_s)

    def _see(self, traffic: Traffic, now_s: float, load: int = 0) -> None:
        """Kinds that are seen have plans of their own. ``load`` is an index of ``LOADS``."""
        if not self._kinds.is_fresh(traffic, load, now_s):
            self._cadence.hurry()
        if self._kinds.see(traffic, load, now_s):
            self._keep_kinds()

    def _keep_kinds(self) -> None:
        """Of kinds that have given way nothing stays."""
        self.agreement.keep(self._kinds)
        self._chooser.keep(self._kinds)
        self._weighed = {of: ways for of, ways in self._weighed.items() if of[0] in self._kinds}

    # -- remembering and explaining --------------------------------------------------------------

    @property
    def kinds(self) -> tuple[Traffic, ...]:
        """Kinds of requests that have plans of their own, the one seen last at the end."""
        return tuple(self._kinds)

    def weighed(self, traffic: Traffic, num_sessions: int) -> tuple[Candidate, ...]:
        """The best candidates as last weighed, best first; empty for a kind not seen lately."""
        return self._weighed.get((traffic, num_sessions), ())

    def resume(self, number: int, kinds: Iterable[Traffic], now_s: float) -> None:
        """Goes on behind the plans of an earlier router: lower numbers would be ignored. Of other
        kinds than its nothing is kept."""
        self.number = max(self.number, number)
        for kind in kinds:
            self._see(kind, now_s)
        self._keep_kinds()

    # -- deciding ------------------------------------------------------------------------------

    def set_away(self, members: Iterable[str]) -> None:
        """Drafters that are not there now; until the next call no plan is made with them."""
        self._away.clear()
        self._away.update(members)
        # Also what is planned for requests not seen lately.
        self._turn = 0
        self._cadence.hurry()

    def candidates(self, traffic: Traffic) -> list[Candidate]:
        """The best chains with their predicted times for one request alone, best first."""
        return self._planner.candidates(Regime(traffic))

    def plan_of(self, chain: Sequence[str], traffic: Traffic) -> Plan:
        """A plan for a chain that the user has named, with the best draft lengths known."""
        candidate = self._planner.evaluate(chain, Regime(traffic))
        if candidate is None:
            candidate = Candidate(tuple(chain), (4,) * (len(chain) - 1), float("inf"))
        return to_plan(candidate, self.number)

    def is_due(self, now_s: float) -> bool:
        """Whether to decide now: not often while all is as it was."""
        return bool(self._chooser.waiting) or self._cadence.is_due(now_s)

    def decide(self, now_s: float) -> PlanTable | None:
        """A new table if for some kind and load a better choice is known than the present."""
        present = {kind: self.table.of(kind) for kind in self._kinds}
        cells = self._cells_of_this_turn(now_s)
        self._turn += 1
        found = {
            (kind, at): ladder
            for kind, at in cells
            if (ladder := self._choose(present[kind][at], kind, LOADS[at], now_s)) is not None
        }
        has_changed = any(self._is_fresh(cell, now_s) for cell in found)
        self._cadence.decided(now_s, has_changed=has_changed)
        if not found:
            return None
        self.number += 1
        self.table = PlanTable(
            {
                kind: tuple(
                    found.get((kind, at), ladder).numbered(self.number)
                    for at, ladder in enumerate(ladders)
                )
                for kind, ladders in present.items()
            }
        )
        return self.table

    def _cells_of_this_turn(self, now_s: float) -> list[tuple[Traffic, int]]:
        """What was seen lately, of all others now and then one: a decision must stay cheap."""
        all_cells = list(product(self._kinds, range(len(LOADS))))
        if not self._turn:
            return all_cells
        cells = [cell for cell in all_cells if self._is_fresh(cell, now_s)]
        others, is_late = divmod(self._turn, _OTHERS_EVERY)
        if not is_late:
            cells.append(all_cells[others % len(all_cells)])
        return list(dict.fromkeys(cells))

    def _is_fresh(self, cell: tuple[Traffic, int], now_s: float) -> bool:
        kind, load = cell
        if (kind, LOADS[load]) in self._chooser.waiting:
            return True
        return self._kinds.is_fresh(kind, load, now_s)

    def _choose(
        self, ladder: Ladder, traffic: Traffic, num_sessions: int, now_s: float
    ) -> Ladder | None:
        """None: the present choice stays."""
        regime = Regime(traffic, num_sessions)
        candidates = self._planner.candidates(regime)
        if not candidates:
            return None
        weighed = tuple(candidates[:_KEPT_CANDIDATES])
        self._weighed[traffic, num_sessions] = weighed
        best = self._chooser.better(ladder.plan, candidates, regime)
        if best is None:
            return None
        number, before = self.number + 1, ladder.plan.chain
        grounds = self._grounds(weighed, traffic, now_s)
        self.journal.decisions.append(
            Decision(now_s, traffic, num_sessions, number, before, best, weighed, grounds)
        )
        return self._chooser.ladder(best, candidates, regime, self.number)

    def _grounds(
        self, candidates: Sequence[Candidate], traffic: Traffic, now_s: float
    ) -> tuple[Grounds, ...]:
        pairs = dict.fromkeys(pair for way in candidates for pair in pairwise(way.chain))
        return tuple(self.agreement.grounds(PairKey(*pair, traffic), now_s) for pair in pairs)
