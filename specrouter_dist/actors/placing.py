"""Which nodes can hold a member: what it asks for, beside what they have.

Nodes are those of ``ray.nodes()``. What is taken already does not count: a member that fits a node
is started there sooner or later, one that fits none waits for a node that is not there yet.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import ray

from specrouter_dist.config import ModelMember
from specrouter_dist.errors import UnavailableError
from specrouter_dist.pools.loading import Pool, model_members

Node = Mapping[str, Any]


def wanted_resources(member: ModelMember) -> dict[str, float]:
    """What Ray reserves for the member, by Ray's names."""
    wanted = {"CPU": member.num_cpus, "GPU": member.num_gpus, **member.resources}
    return {name: amount for name, amount in wanted.items() if amount}


def fits(member: ModelMember, node: Node) -> bool:
    """Whether the node has all that the member asks for, by its totals and labels."""
    resources, labels = node["Resources"], node["Labels"]
    return (
        node["Alive"]
        and all(resources.get(name, 0.0) >= n for name, n in wanted_resources(member).items())
        and all(_selects(wanted, labels.get(key)) for key, wanted in member.labels.items())
    )


def without_node(members: Iterable[ModelMember], nodes: Sequence[Node]) -> list[ModelMember]:
    """The members that no node can hold."""
    return [member for member in members if not any(fits(member, node) for node in nodes)]


def describe_need(member: ModelMember) -> str:
    """For people: what a node needs to hold the member."""
    parts = [f"{name} {amount:g}" for name, amount in wanted_resources(member).items()]
    parts += [f"label {key}={value}" for key, value in member.labels.items()]
    return f"member {member.name!r} asks for a node with {', '.join(parts) or 'nothing'}"


def why_waiting(pool: Pool) -> dict[str, str]:
    """By member, of those that no node of the present cluster can hold: what each asks for."""
    stranded = without_node(model_members(pool), ray.nodes())
    return {member.name: describe_need(member) for member in stranded}


def check_placeable(pool: Pool) -> None:
    """For a cluster that does not grow.

    Raises:
        UnavailableError: no node can hold one of the members.
    """
    if needs := why_waiting(pool):
        raise UnavailableError(f"the cluster lacks a node: {'; '.join(needs.values())}")


def _selects(wanted: str, label: str | None) -> bool:
    """Ray's label selectors: ``v``, ``!v``, ``in(v,w)`` and ``!in(v,w)``."""
    positive = wanted.removeprefix("!")
    is_list = positive.startswith("in(") and positive.endswith(")")
    values = positive[3:-1].split(",") if is_list else [positive]
    is_among = label in {value.strip() for value in values}
    return is_among != wanted.startswith("!")
