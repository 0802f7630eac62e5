"""What other threads post to an engine thread, besides requests."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from specrouter_dist.links.address import Address
from specrouter_dist.routing.plans import PlanTable


@dataclass(frozen=True, slots=True)
class SetDirectory:
    """Posted: where each member of the pool is now."""

    addresses: Mapping[str, Address]


@dataclass(frozen=True, slots=True)
class SetPlans:
    """Posted: the router's newest choice."""

    table: PlanTable


@dataclass(frozen=True, slots=True)
class Call:
    """Posted: runs on the engine thread, between two forwards."""

    function: Callable[[], None]
