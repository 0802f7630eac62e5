"""Health: real tokens, for however many ask."""

import asyncio
import threading
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from fastapi import FastAPI

from specrouter_dist.errors import UnavailableError
from specrouter_dist.links.control import Failed, Submit
from specrouter_dist.pools.checks import PoolReport
from specrouter_dist.serving import probing
from specrouter_dist.serving.choices import Runner
from specrouter_dist.serving.probing import Probe
from specrouter_dist.text.tokenizer import Tokenizer
from tests.unit.serving.asgi import Reply, call, call_here
from tests.unit.serving.calls import COMPLETIONS, error
from tests.unit.serving.scripted import Message, ScriptedClient, plain_answer


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def every_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """No answer is kept."""
    monkeypatch.setattr(probing, "KEPT_S", 0.0)


@pytest.fixture
def runner(client: ScriptedClient, tokenizer: Tokenizer, report: PoolReport) -> Runner:
    return Runner(client, tokenizer, report.eos_ids)


def full(submit: Submit) -> Iterable[Message]:
    yield Failed(submit.request, "NoRoomError", "full")


# -- what it says ----------------------------------------------------------------------------------


def test_it_is_a_real_token(app: FastAPI, client: ScriptedClient) -> None:
    reply = call(app, "GET", "/health")
    state = reply.json()
    assert (reply.status, state["status"], state["num_tokens"]) == (200, "ok", 6)
    assert state["chain"] == ["small", "target"]
    (probe,) = client.submits
    assert probe.plan is None
    assert probe.sampling.greedy


@pytest.mark.usefixtures("every_time")
def test_no_token_is_no_health(
    app: FastAPI, client: ScriptedClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probing, "HEALTH_TIMEOUT_S", 0.05)
    client.script = lambda submit: []
    assert error(call(app, "GET", "/health"), 503)["code"] == "unavailable"
    assert client.cancelled == [client.submits[0].request]
    client.script = lambda submit: [Failed(submit.request, "UnavailableError", "lost")]
    assert error(call(app, "GET", "/health"), 503)["message"] == "lost"


def test_a_full_pool_without_any_token_is_none_in_the_end(
    app: FastAPI, client: ScriptedClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probing, "HEALTH_TIMEOUT_S", 0.35)
    client.script = full
    assert error(call(app, "GET", "/health"), 503)["message"] == "no token came within 0 s"
    assert len(client.submits) > 1, "room may come while it waits"


def test_a_full_pool_that_gives_tokens_is_healthy(app: FastAPI, client: ScriptedClient) -> None:
    """They come when the probe has been refused already."""
    client.script = full

    async def look_then_complete() -> Reply:
        looking = asyncio.create_task(call_here(app, "GET", "/health", b"", None))
        while not client.submits:
            await asyncio.sleep(0.01)
        client.script = lambda submit: plain_answer(submit) if submit.name else full(submit)
        body = {"prompt": "Hello"}
        assert (await call_here(app, "POST", COMPLETIONS, body, None)).status == 200
        return await looking

    reply = asyncio.run(look_then_complete())
    assert (reply.status, reply.json()["status"]) == (200, "busy")


def test_a_pool_that_gets_room_is_healthy(app: FastAPI, client: ScriptedClient) -> None:
    client.script = lambda submit: (full if len(client.submits) < 3 else plain_answer)(submit)
    assert call(app, "GET", "/health").json()["status"] == "ok"
    assert len(client.submits) == 3


# -- how often it is found out ---------------------------------------------------------------------


def test_many_who_ask_share_one_probe(
    runner: Runner, client: ScriptedClient, tokenizer: Tokenizer
) -> None:
    may_answer = threading.Event()

    def script(submit: Submit) -> Iterator[Message]:
        assert may_answer.wait(10)
        yield from plain_answer(submit)

    client.script = script
    probe = Probe(runner, tokenizer, Clock())

    async def ask() -> list[Any]:
        asking = [asyncio.create_task(probe.health(runner)) for _ in range(1000)]
        await asyncio.sleep(0.05)
        asking[0].cancel()
        may_answer.set()
        return await asyncio.gather(*asking, return_exceptions=True)

    first, *others = asyncio.run(ask())
    assert isinstance(first, asyncio.CancelledError), "whoever leaves takes nobody along"
    assert {answer["status"] for answer in others} == {"ok"}
    assert len(client.submits) == 1
    assert client.cancelled == []


def test_an_answer_is_kept_for_a_second(
    runner: Runner, client: ScriptedClient, tokenizer: Tokenizer
) -> None:
    clock = Clock()
    probe = Probe(runner, tokenizer, clock)

    async def ask() -> None:
        for now_s, num_probes in ((100.0, 1), (100.9, 1), (101.0, 2), (101.9, 2)):
            clock.now_s = now_s
            assert (await probe.health(runner))["status"] == "ok"
            assert len(client.submits) == num_probes
        client.script = lambda submit: [Failed(submit.request, "UnavailableError", "lost")]
        for now_s, num_probes in ((102.0, 3), (102.9, 3), (103.0, 4)):
            clock.now_s = now_s
            with pytest.raises(UnavailableError, match="lost"):
                await probe.health(runner)
            assert len(client.submits) == num_probes
        client.script = plain_answer
        clock.now_s = 104.0
        assert (await probe.health(runner))["status"] == "ok"

    asyncio.run(ask())
