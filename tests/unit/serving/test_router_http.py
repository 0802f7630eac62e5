"""``GET /v1/router`` and the page that draws it."""

import asyncio
import re
import threading
from typing import Any

import pytest
from fastapi import FastAPI

from deployments.page import add_router_page
from specrouter_dist.errors import UnavailableError
from specrouter_dist.routing.explanation import explain
from specrouter_dist.serving import router_http
from specrouter_dist.serving.router_http import Explain, add_router_route
from tests.unit.routing.learned import learned_router
from tests.unit.serving.asgi import Reply, call, call_here


def ask(app: FastAPI, answer: Explain, path: str = "/v1/router") -> Reply:
    add_router_route(app, answer)
    return call(app, "GET", path)


def test_the_explanation_is_json(app: FastAPI) -> None:
    content = explain(learned_router(), 5.0)
    reply = ask(app, lambda: content)
    assert (reply.status, reply.headers["content-type"]) == (200, "application/json")
    assert reply.headers["cache-control"] == "no-store"
    assert reply.json() == content


def test_a_lost_router_is_an_error_in_openais_shape(app: FastAPI) -> None:
    def lost() -> dict[str, Any]:
        raise UnavailableError("the router does not answer: ActorDiedError")

    reply = ask(app, lost)
    assert (reply.status, reply.headers["retry-after"]) == (503, "5")
    assert reply.json()["error"] == {
        "message": "the router does not answer: ActorDiedError",
        "type": "service_unavailable_error",
        "param": None,
        "code": "unavailable",
    }


def test_a_silent_router_is_a_503_and_holds_up_no_request(
    app: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(router_http, "TIMEOUT_S", 0.3)
    ended = threading.Event()

    def silent() -> dict[str, Any]:
        ended.wait(10)
        return {}

    async def many_look_while_others_complete() -> tuple[list[Reply], Reply]:
        looks = [
            asyncio.create_task(call_here(app, "GET", "/v1/router", b"", None)) for _ in range(50)
        ]
        await asyncio.sleep(0.05)
        body = {"model": "tiny", "prompt": "Hello"}
        completion = await call_here(app, "POST", "/v1/completions", body, None)
        assert not any(look.done() for look in looks)
        return await asyncio.gather(*looks), completion

    add_router_route(app, silent)
    try:
        looks, completion = asyncio.run(many_look_while_others_complete())
    finally:
        ended.set()
    assert completion.status == 200
    assert {look.status for look in looks} == {503}
    assert "did not answer in" in looks[0].json()["error"]["message"]


def test_other_methods_are_refused_in_openais_shape(app: FastAPI) -> None:
    add_router_route(app, dict)
    reply = call(app, "POST", "/v1/router")
    assert (reply.status, reply.json()["error"]["type"]) == (405, "invalid_request_error")


class TestPage:
    @pytest.fixture
    def reply(self, app: FastAPI) -> Reply:
        add_router_page(app)
        return call(app, "GET", "/router")

    def test_it_is_html_that_asks_the_route(self, reply: Reply) -> None:
        assert (reply.status, reply.headers["content-type"]) == (200, "text/html; charset=utf-8")
        assert 'fetch("v1/router"' in reply.body.decode()

    def test_it_loads_nothing_from_elsewhere(self, reply: Reply) -> None:
        assert "default-src 'none'" in reply.headers["content-security-policy"]
        html = reply.body.decode().replace("http://www.w3.org/2000/svg", "")
        assert re.findall(r"https?://|//\w|@import|url\(|\bsrc=", html) == []

    def test_what_the_router_says_is_never_parsed_as_html(self, reply: Reply) -> None:
        assert re.findall(r"innerHTML|outerHTML|insertAdjacent|eval\(", reply.body.decode()) == []
