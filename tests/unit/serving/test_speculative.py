"""What requests say about drafting, and the plans that it comes to."""

import asyncio
import threading
from collections.abc import Sequence
from typing import Any

import pytest
from fastapi import FastAPI
from hypothesis import given
from hypothesis import strategies as st

from specrouter_dist.config import Plan
from specrouter_dist.errors import UnavailableError
from specrouter_dist.routing.planner import Candidate, to_plan
from specrouter_dist.routing.traffic import Traffic
from specrouter_dist.serving import speculative as speculative_module
from specrouter_dist.serving.speculative import with_blocks
from tests.unit.serving.asgi import Reply, call_here
from tests.unit.serving.calls import COMPLETIONS, complete, error
from tests.unit.serving.conftest import ScriptedRouter
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
    [
        False,
        {"num_speculative_tokens": 0},
        {"chain": ["target"]},
        {"chain": ["target"], "num_speculative_tokens": 0},
    ],
)
def test_the_target_alone_runs_without_any_router(
    app: FastAPI,
    client: ScriptedClient,
    router: ScriptedRouter,
    monkeypatch: pytest.MonkeyPatch,
    speculative: Any,
) -> None:
    def lost(*_: Any) -> None:
        raise UnavailableError("the router does not answer")

    for question in ("plan_of", "candidates"):
        monkeypatch.setattr(router, question, lost)
    assert planned(app, client, speculative) == Plan(chain=("target",))
    error(complete(app, speculative={"num_speculative_tokens": 3}), 503)


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


def test_a_slow_router_keeps_no_other_request_waiting(
    app: FastAPI, router: ScriptedRouter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speculative_module, "TIMEOUT_S", 0.5)
    ended = threading.Event()

    def slow(chain: Sequence[str], traffic: Traffic) -> Plan:
        ended.wait(10)
        raise UnavailableError("the router does not answer")

    monkeypatch.setattr(router, "plan_of", slow)

    async def ask(**fields: Any) -> Reply:
        return await call_here(app, "POST", COMPLETIONS, {"prompt": "Hello", **fields}, None)

    async def many_ask_the_router_while_others_do_not() -> list[Reply]:
        chain = {"chain": ["small", "target"]}
        # More than the threads that all work shares.
        asking = [asyncio.create_task(ask(speculative=chain)) for _ in range(50)]
        await asyncio.sleep(0.1)
        assert (await ask()).status == 200
        assert not any(one.done() for one in asking)
        return await asyncio.gather(*asking)

    try:
        replies = asyncio.run(many_ask_the_router_while_others_do_not())
    finally:
        ended.set()
    for reply in replies:
        assert "did not answer in" in error(reply, 503)["message"]


@given(st.lists(st.tuples(LENGTHS, st.sampled_from([0, 1, 2, 4])), min_size=1, max_size=3), LENGTHS)
def test_blocks_are_taken_as_the_router_takes_its_own(
    edges: list[tuple[int, int]], num_tokens: int
) -> None:
    chain = tuple("abcd"[-len(edges) - 1 :])
    lengths, aheads = zip(*edges, strict=True)
    plan = to_plan(Candidate(chain, lengths, 100.0, aheads), 3)
    wanted = to_plan(Candidate(chain, (num_tokens,) * len(edges), 100.0, aheads), 3)
    changed = with_blocks(plan, num_tokens)
    # Validated: a copy is not.
    changed = Plan(**changed.model_dump())
    without_times = {"edges": {"__all__": {"patience_ms"}}}
    assert changed.model_dump(exclude=without_times) == wanted.model_dump(exclude=without_times)
    for before, after in zip(plan.edges, changed.edges, strict=True):
        assert after.patience_ms >= before.patience_ms
