"""Which nodes can hold a member."""

from typing import Any

import pytest

from specrouter_dist.actors.placing import describe_need, fits, without_node
from specrouter_dist.config import ModelMember


def member(**fields: Any) -> ModelMember:
    return ModelMember(name="m", role="drafter", model="m", **fields)


def node(labels: dict[str, str] | None = None, **resources: float) -> dict[str, Any]:
    return {"Alive": True, "Resources": resources, "Labels": labels or {}}


def test_resources_are_compared_with_totals() -> None:
    wants = member(device="cuda", num_gpus=0.5, num_cpus=2, resources={"fast": 0.001})
    assert fits(wants, node(GPU=1, CPU=2, fast=1))
    assert not fits(wants, node(GPU=1, CPU=1, fast=1))
    assert not fits(wants, node(GPU=1, CPU=2))
    assert not fits(wants, {**node(GPU=1, CPU=2, fast=1), "Alive": False})
    assert fits(member(), node())


@pytest.mark.parametrize(
    ("selector", "accepted"),
    [
        ("L4", {"L4"}),
        ("!L4", {"A10G", None}),
        ("in(L4, A10G)", {"L4", "A10G"}),
        ("!in(L4,A10G)", {None}),
    ],
)
def test_labels_are_selected_as_ray_selects_them(selector: str, accepted: set[str | None]) -> None:
    wants = member(labels={"kind": selector})
    labels: list[str | None] = ["L4", "A10G", None]
    found = {one for one in labels if fits(wants, node({"kind": one} if one else {}))}
    assert found == accepted


def test_what_no_node_holds_is_named_with_its_need() -> None:
    small, big = member(), member(device="cuda", num_gpus=1, labels={"kind": "H100"})
    assert without_node([small, big], [node(CPU=1), node({"kind": "L4"}, GPU=1)]) == [big]
    assert describe_need(big) == "member 'm' asks for a node with GPU 1, label kind=H100"
    assert describe_need(small) == "member 'm' asks for a node with nothing"
