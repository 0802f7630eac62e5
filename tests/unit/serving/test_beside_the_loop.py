"""What takes long before a request is admitted does not hold up the event loop."""

import asyncio
import threading
from typing import Any

import pytest
from fastapi import FastAPI

from specrouter_dist.serving._proto import service_pb2 as pb
from specrouter_dist.serving.grpc_service import GrpcService
from specrouter_dist.serving.json_body import Body
from specrouter_dist.serving.openai_schema import ChatRequest, CompletionRequest
from specrouter_dist.serving.openai_service import OpenAIService
from specrouter_dist.serving.tokenizing import DetokenizeRequest, TokenizeRequest
from tests.unit.serving.asgi import call
from tests.unit.serving.calls import CHAT, COMPLETIONS, USER
from tests.unit.serving.test_grpc_service import Context

LONG = "x" * 70_000
ROUTES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    COMPLETIONS: ({"prompt": "a"}, {"user": LONG}),
    CHAT: ({"messages": USER}, {"user": LONG}),
    "/tokenize": ({"prompt": "a"}, {"prompt": LONG}),
    "/detokenize": ({"tokens": [5]}, {"tokens": [5] * len(LONG)}),
}


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> list[threading.Thread]:
    """Where bodies are looked at."""
    found: list[threading.Thread] = []
    for model in (CompletionRequest, ChatRequest, TokenizeRequest, DetokenizeRequest):

        def check(request: Body, its: Any = model.check) -> None:
            found.append(threading.current_thread())
            its(request)

        monkeypatch.setattr(model, "check", check)
    return found


@pytest.mark.parametrize("path", ROUTES)
def test_long_bodies_are_looked_at_in_a_thread(
    app: FastAPI, threads: list[threading.Thread], path: str
) -> None:
    body, more = ROUTES[path]
    for fields in (body, body | more):
        assert call(app, "POST", path, fields).status == 200
    assert [thread is threading.main_thread() for thread in threads] == [True, False]


def test_so_are_long_messages(service: OpenAIService, threads: list[threading.Thread]) -> None:
    methods = GrpcService(service, dict)
    for text in ("a", LONG):
        asyncio.run(methods.generate(pb.GenerateRequest(prompt="a", user=text), Context()))
        asyncio.run(methods.tokenize(pb.TokenizeRequest(prompt=text), Context()))
        asyncio.run(methods.detokenize(pb.DetokenizeRequest(tokens=[5] * len(text)), Context()))
    on_loop = [thread is threading.main_thread() for thread in threads]
    assert on_loop == [True] * 3 + [False] * 3
