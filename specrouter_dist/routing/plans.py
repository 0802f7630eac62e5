"""What the router hands out."""

from dataclasses import dataclass

from specrouter_dist.config import Plan


@dataclass(frozen=True, slots=True)
class PlanTable:
    """The router's newest choice for each sampling regime."""

    greedy: Plan
    sampled: Plan

    def plan(self, *, greedy: bool) -> Plan:
        """The plan of that regime."""
        return self.greedy if greedy else self.sampled
