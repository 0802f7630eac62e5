"""What the router hands out."""

import bisect
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Self

from specrouter_dist.config import Plan
from specrouter_dist.routing.switching import FREE, Progress, Switching
from specrouter_dist.routing.traffic import ROOTS, Traffic

_USUAL_ACCEPTED = 24.0
"""A request is taken to agree as usual until about so many of its proposals were to be accepted."""
_MEMORY_PROPOSALS = 256.0
"""Weight of a request's own past, in judged proposals: texts change as they go on."""
_FORGIVEN_PER_ROUND = 0.005
"""Share of the evidence that a round without proposals takes away, so that a request that has
fallen back to the target alone tries again, but seldom."""
_INERTIA = 0.1
"""A rung is left when another is nearer by this much."""


@dataclass(slots=True)
class Standing:
    """How often a request's proposals are accepted, against how often it was to be expected."""

    accepted: float = 0.0
    expected: float = 0.0

    def add(self, num_accepted: int, num_rejected: int, usual: float) -> None:
        """One round; ``usual`` is the share that the target accepts of such proposals."""
        num_judged = num_accepted + num_rejected
        keep = _MEMORY_PROPOSALS / (_MEMORY_PROPOSALS + num_judged)
        if not num_judged:
            keep = 1.0 - _FORGIVEN_PER_ROUND
        self.accepted = self.accepted * keep + num_accepted
        self.expected = self.expected * keep + num_judged * usual

    @property
    def scale(self) -> float:
        """The request agrees about so many times as often as usual."""
        return (self.accepted + _USUAL_ACCEPTED) / (self.expected + _USUAL_ACCEPTED)


@dataclass(frozen=True, slots=True)
class Rung:
    """The plan for requests that agree ``scale`` times as often as usual."""

    scale: float
    plan: Plan
    agreement: float = 1.0
    """Usual share of the judged proposals of this plan that the target accepts."""
    switching: Switching = FREE
    """What requests that agree so often pay and gain by a change to this plan's chain."""


@dataclass(frozen=True, slots=True)
class Ladder:
    """A plan, and what is better for requests that agree more or less often than usual."""

    rungs: tuple[Rung, ...]

    @classmethod
    def only(cls, plan: Plan) -> Self:
        """One plan for all requests."""
        return cls((Rung(1.0, plan),))

    @property
    def usual(self) -> Rung:
        """The rung that requests begin on."""
        return next(rung for rung in self.rungs if rung.scale == 1.0)

    @property
    def plan(self) -> Plan:
        """The plan that requests begin with."""
        return self.usual.plan

    def numbered(self, number: int) -> Self:
        """The same plans under another number."""
        return type(self)(
            tuple(
                replace(rung, plan=rung.plan.model_copy(update={"number": number}))
                for rung in self.rungs
            )
        )

    def choose(self, present: Rung | None, standing: Standing, progress: Progress) -> Rung:
        """The rung for a request that stands like this.

        ``present`` is where it is now, maybe on another ladder. It stays with that chain if its
        rest is too short to pay for another one.
        """
        scale = standing.scale

        def distance(rung: Rung) -> float:
            return abs(rung.scale - scale) - _INERTIA * (rung is present)

        best = min(self.rungs, key=distance)
        chain = present.plan.chain if present else best.plan.chain
        if best.switching.pays(chain, best.plan.chain, progress):
            return best
        same = (rung for rung in self.rungs if rung.plan.chain == chain)
        return min(same, key=distance, default=present or best)


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
    """The router's newest choices, by kind of request and load; all have the same number."""

    ladders: Mapping[Traffic, tuple[Ladder, ...]]
    """One for each of ``LOADS``. The widest kinds are always there."""

    @classmethod
    def only(cls, plan: Plan) -> Self:
        """One plan for everything."""
        return cls({kind: (Ladder.only(plan),) * len(LOADS) for kind in ROOTS})

    def of(self, traffic: Traffic) -> tuple[Ladder, ...]:
        """The choices for the narrowest known kind that holds ``traffic``, one per load."""
        return next(self.ladders[kind] for kind in traffic.lineage() if kind in self.ladders)

    def plan(self, traffic: Traffic, load: int = 0) -> Plan:
        """The plan that such requests begin with; ``load`` is an index of ``LOADS``."""
        return self.of(traffic)[load].plan
