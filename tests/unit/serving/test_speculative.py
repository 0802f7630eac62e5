"""What requests say about drafting, and the plans that it comes to."""

from typing import Any

import pytest
from fastapi import FastAPI
from hypothesis import given
from hypothesis import strategies as st

from specrouter_dist.config import Plan
from specrouter_dist.routing.planner import Candidate, to_plan
from specrouter_dist.serving.speculative import with_blocks
from tests.unit.serving.calls import complete
from tests.unit.serving.scripted import ScriptedClient

LENGTHS = st.integers(1, 16)


def planned(app: FastAPI, client: ScriptedClient, speculative: Any) -> Plan | None:
    assert complete(app, speculative=speculative).status == 200
    return client.submits[-1].plan


def test_a_chain_with_blocks_has_them_on_every_edge(app: FastAPI, client: ScriptedClient) -> None:
    names = ["small", "medium", "target"]
    plan = planned(app, client, {"chain": names, "num_speculative_tokens": 3})
    assert plan is not None
    assert plan.chain == tuple(names)
    assert [edge.patience for edge in plan.edges] == [3, 3]
    assert [edge.burst for edge in plan.edges] == [3, 2 * 3 + 3], "two blocks and what is over"
    assert [edge.drafts_ahead for edge in plan.edges] == [False, True]


def test_blocks_alone_take_the_best_chain_that_drafts(app: FastAPI, client: ScriptedClient) -> None:
    plan = planned(app, client, {"num_speculative_tokens": 5})
    assert plan is not None
    assert plan.chain == ("medium", "target")
    assert [edge.patience for edge in plan.edges] == [5]


@pytest.mark.parametrize(
    "speculative",
    [False, {"num_speculative_tokens": 0}, {"chain": ["target"], "num_speculative_tokens": 0}],
)
def test_no_blocks_are_the_target_alone(
    app: FastAPI, client: ScriptedClient, speculative: Any
) -> None:
    plan = planned(app, client, speculative)
    assert plan is not None
    assert (plan.chain, plan.edges) == (("target",), ())


@pytest.mark.parametrize("speculative", [None, True, {}])
def test_what_says_nothing_leaves_the_choice_to_the_router(
    app: FastAPI, client: ScriptedClient, speculative: Any
) -> None:
    assert planned(app, client, speculative) is None


def test_without_any_drafter_at_hand_the_target_answers(
    app: FastAPI, client: ScriptedClient, router: Any
) -> None:
    router.chains = (("target",),)
    plan = planned(app, client, {"num_speculative_tokens": 5})
    assert plan is not None
    assert plan.chain == ("target",)


@given(st.lists(st.tuples(LENGTHS, st.sampled_from([0, 1, 2, 4])), min_size=1, max_size=3), LENGTHS)
def test_blocks_are_taken_as_the_router_takes_its_own(
    edges: list[tuple[int, int]], num_tokens: int
) -> None:
    chain = tuple("abcd"[-len(edges) - 1 :])
    lengths, aheads = zip(*edges, strict=True)
    plan = to_plan(Candidate(chain, lengths, 100.0, aheads), 3, 2)
    wanted = to_plan(Candidate(chain, (num_tokens,) * len(edges), 100.0, aheads), 3, 2)
    changed = with_blocks(plan, num_tokens)
    # Validated: a copy is not.
    changed = Plan(**changed.model_dump())
    without_times = {"edges": {"__all__": {"patience_ms"}}}
    assert changed.model_dump(exclude=without_times) == wanted.model_dump(exclude=without_times)
    for before, after in zip(plan.edges, changed.edges, strict=True):
        assert after.patience_ms >= before.patience_ms
