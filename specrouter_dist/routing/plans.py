"""What the router hands out."""

import bisect
from dataclasses import dataclass
from typing import Self

from specrouter_dist.config import Plan

_USUAL_PROPOSALS = 16.0
"""A request is taken to agree as usual until it has judged about so many proposals."""
_INERTIA = 0.1
"""A rung is left when another is nearer by this much."""


@dataclass(frozen=True, slots=True)
class Rung:
    """The plan for requests that agree ``scale`` times as often as usual."""

    scale: float
    plan: Plan


@dataclass(frozen=True, slots=True)
class Ladder:
    """A plan, and what is better for requests that agree more or less often than usual."""

    plan: Plan
    agreement: float
    """Usual share of the proposals judged by the target that it accepts, above 0."""
    rungs: tuple[Rung, ...]
    """``plan`` is that of the rung at 1."""

    @classmethod
    def only(cls, plan: Plan) -> Self:
        """One plan for all requests."""
        return cls(plan, 1.0, (Rung(1.0, plan),))

    def numbered(self, number: int) -> Self:
        """The same plans under another number."""
        rungs = tuple(
            Rung(rung.scale, rung.plan.model_copy(update={"number": number})) for rung in self.rungs
        )
        plan = next(rung.plan for rung in rungs if rung.scale == 1.0)
        return type(self)(plan, self.agreement, rungs)

    def choose(self, present: Plan, num_accepted: int, num_rejected: int) -> Plan:
        """The plan for a request, from what it has made of proposals so far.

        Its agreement begins at the usual one and moves as evidence comes.
        """
        num_judged = num_accepted + num_rejected + _USUAL_PROPOSALS
        scale = (num_accepted / self.agreement + _USUAL_PROPOSALS) / num_judged

        def distance(rung: Rung) -> float:
            return abs(rung.scale - scale) - _INERTIA * (rung.plan is present)

        return min(self.rungs, key=distance).plan


LOADS = (1, 2, 4, 8, 16, 32)
"""Numbers of running requests that have plans of their own; what is above has the last ones."""


def load_index(num_running: int, present: int) -> int:
    """Which of ``LOADS`` holds for ``num_running`` requests while the ``present`` one does.

    The first that is not below; but one that is twice that stays while more than a quarter of it
    is busy, so that a request that ends re-plans nobody.
    """
    needed = min(bisect.bisect_left(LOADS, num_running), len(LOADS) - 1)
    return present if needed == present - 1 and 2 * num_running > LOADS[needed] else needed


@dataclass(frozen=True, slots=True)
class PlanTable:
    """The router's newest choices, by sampling regime and load; all have the same number."""

    greedy: tuple[Ladder, ...]
    """One for each of ``LOADS``."""
    sampled: tuple[Ladder, ...]

    @classmethod
    def only(cls, plan: Plan) -> Self:
        """One plan for everything."""
        ladders = (Ladder.only(plan),) * len(LOADS)
        return cls(ladders, ladders)

    def ladder(self, *, greedy: bool, load: int = 0) -> Ladder:
        """The choice for that regime; ``load`` is an index of ``LOADS``."""
        return self.ladders(greedy)[load]

    def ladders(self, greedy: bool) -> tuple[Ladder, ...]:
        """The choices for that regime, one for each of ``LOADS``."""
        return self.greedy if greedy else self.sampled

    def plan(self, *, greedy: bool, load: int = 0) -> Plan:
        """The plan that requests of that regime begin with."""
        return self.ladder(greedy=greedy, load=load).plan
