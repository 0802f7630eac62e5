"""Whom a request asks for its knobs."""

from array import array
from types import SimpleNamespace

import pytest

from specrouter_dist.config import Plan, SamplingParams
from specrouter_dist.serving.backend import PoolBackend
from specrouter_dist.serving.results import GenerateRequest

ASKED = Plan(chain=("small", "target"), edges=({"patience": 3},))  # type: ignore[arg-type]


def request(chain: tuple[str, ...] | None, plan: Plan | None = None) -> GenerateRequest:
    return GenerateRequest(array("I", [1]), SamplingParams(), chain, plan)


@pytest.mark.parametrize(
    ("asking", "expected", "num_asked"),
    [
        (request(None), None, 0),
        (request(("target",)), Plan(chain=("target",)), 0),
        (request(("small", "target")), ASKED, 1),
        (request(("target",), ASKED), ASKED, 0),
    ],
)
def test_the_router_is_asked_for_knobs_where_there_are_any(
    asking: GenerateRequest, expected: Plan | None, num_asked: int
) -> None:
    calls: list[object] = []

    def plan_of(*call: object) -> Plan:
        calls.append(call)
        return ASKED

    backend = object.__new__(PoolBackend)
    backend.running = SimpleNamespace(plan_of=plan_of)  # type: ignore[assignment]
    assert backend._plan_of(asking) == expected
    assert len(calls) == num_asked
