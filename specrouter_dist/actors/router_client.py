"""The router's answers, asked from another process."""

from collections.abc import Sequence
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError

from specrouter_dist.actors.registry import MemberState
from specrouter_dist.config import Plan
from specrouter_dist.errors import UnavailableError
from specrouter_dist.links.address import Address
from specrouter_dist.routing.planner import Candidate
from specrouter_dist.routing.plans import PlanTable
from specrouter_dist.routing.traffic import Traffic

CALL_TIMEOUT_S = 10.0
_EXPLAIN_TIMEOUT_S = 2.0
"""Whoever looks asks again soon."""


class RouterClient:
    """Calls of a router's actor; all raise UnavailableError if it does not answer in time."""

    def __init__(self, router: Any) -> None:
        self._router = router

    def plan_of(self, chain: Sequence[str], traffic: Traffic) -> Plan:
        """A plan for a chain that the user has named."""
        plan: Plan = _answer(self._router.plan_of.remote(tuple(chain), traffic))
        return plan

    def candidates(self, traffic: Traffic) -> list[Candidate]:
        """All chains with their predicted times, best first."""
        candidates: list[Candidate] = _answer(self._router.candidates.remote(traffic))
        return candidates

    def table(self) -> PlanTable:
        """The router's present choice."""
        table: PlanTable = _answer(self._router.table.remote())
        return table

    def explain(self) -> dict[str, Any]:
        """What the router knows and has decided, as plain values."""
        call = self._router.explain.remote()
        explanation: dict[str, Any] = _answer(call, _EXPLAIN_TIMEOUT_S)
        return explanation

    def members(self) -> dict[str, MemberState]:
        """How each member with a model is; the target is the last."""
        states: dict[str, MemberState] = _answer(self._router.members.remote())
        return states

    def add(self, member: str) -> None:
        """Starts a drafter that was removed; it drafts as soon as it is up."""
        _answer(self._router.add.remote(member))

    def remove(self, member: str) -> None:
        """Ends a drafter; requests that it drafts for go on without it."""
        _answer(self._router.remove.remote(member))

    def directory(self, timeout_s: float = CALL_TIMEOUT_S) -> dict[str, Address]:
        """Members that can be reached, and where."""
        directory: dict[str, Address] = _answer(self._router.directory.remote(), timeout_s)
        return directory


def _answer(reference: Any, timeout_s: float = CALL_TIMEOUT_S) -> Any:
    try:
        return ray.get(reference, timeout=timeout_s)
    except (RayActorError, GetTimeoutError) as error:
        raise UnavailableError(f"the router does not answer: {type(error).__name__}") from None
