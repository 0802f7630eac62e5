"""What the router hands out."""

from dataclasses import dataclass
from typing import Self

from specrouter_dist.config import Plan

_USUAL_PROPOSALS = 16.0
"""A request is taken to agree as usual until it has judged about so many proposals."""
_INERTIA = 0.05
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

    def choose(self, present: Plan, num_accepted: int, num_rejected: int) -> Plan:
        """The plan for a request, from what it has made of proposals so far.

        Its agreement begins at the usual one and moves as evidence comes.
        """
        num_judged = num_accepted + num_rejected + _USUAL_PROPOSALS
        scale = (num_accepted / self.agreement + _USUAL_PROPOSALS) / num_judged

        def distance(rung: Rung) -> float:
            return abs(rung.scale - scale) - _INERTIA * (rung.plan is present)

        return min(self.rungs, key=distance).plan


@dataclass(frozen=True, slots=True)
class PlanTable:
    """The router's newest choice for each sampling regime."""

    greedy: Ladder
    sampled: Ladder

    def ladder(self, *, greedy: bool) -> Ladder:
        """The choice for that regime."""
        return self.greedy if greedy else self.sampled

    def plan(self, *, greedy: bool) -> Plan:
        """The plan that requests of that regime begin with."""
        return self.ladder(greedy=greedy).plan
