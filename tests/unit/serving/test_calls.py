"""Ids and log lines of calls, over HTTP and gRPC."""

import asyncio
import json
import logging
from collections.abc import Callable, Iterator
from io import StringIO
from typing import Any

import pytest
from fastapi import FastAPI
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from starlette.types import ASGIApp, Receive, Scope, Send

from specrouter_dist.errors import RequestError
from specrouter_dist.links.control import Failed
from specrouter_dist.observability.logs import ROOT, JsonFormatter
from specrouter_dist.observability.spans import close_spans, export_spans
from specrouter_dist.serving._proto import service_pb2 as pb
from specrouter_dist.serving.calls import Call
from specrouter_dist.serving.grpc_service import GrpcService
from specrouter_dist.serving.openai_service import OpenAIService
from tests.unit.serving.asgi import call, call_and_hang_up
from tests.unit.serving.calls import COMPLETIONS, complete
from tests.unit.serving.scripted import ScriptedClient, output
from tests.unit.serving.test_grpc_service import Context

Lines = Callable[[], list[dict[str, Any]]]


@pytest.fixture
def lines() -> Iterator[Lines]:
    """What has been logged, and how."""
    written = StringIO()
    handler = logging.StreamHandler(written)
    handler.setFormatter(JsonFormatter("ingress"))
    logger = logging.getLogger(f"{ROOT}.serving.calls")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    yield lambda: [json.loads(line) for line in written.getvalue().splitlines()]
    logger.removeHandler(handler)
    logger.setLevel(logging.NOTSET)
    logger.propagate = True


def sending_id(app: ASGIApp, request_id: str) -> ASGIApp:
    """The application, for a client that names its requests."""

    async def asked(scope: Scope, receive: Receive, send: Send) -> None:
        scope["headers"].append((b"x-request-id", request_id.encode("latin-1")))
        await app(scope, receive, send)

    return asked


def test_a_request_is_one_line_without_its_text(app: FastAPI, lines: Lines) -> None:
    reply = complete(app, prompt="Secret words", n=2)
    (line,) = lines()
    assert reply.headers["x-request-id"] == line["request_id"]
    assert reply.json()["id"] == f"cmpl-{line['request_id']}"
    assert (line["kind"], line["status"], line["error"]) == (COMPLETIONS, 200, None)
    assert (line["num_choices"], line["num_tokens"]) == (2, 12)
    assert line["num_prompt_tokens"] == reply.json()["usage"]["prompt_tokens"]
    assert line["chains"] == ["small>target", "target"]
    assert line["acceptance_rate"] == 4 / 9
    assert line["time_to_first_token_ms"] >= 0 and line["ms_per_token"] >= 0
    assert line["key"] == "all", "there are no keys"
    written = json.dumps(line)
    assert "Secret" not in written
    assert reply.json()["choices"][0]["text"] not in written


def test_the_clients_id_goes_to_the_target_and_comes_back(
    app: FastAPI, client: ScriptedClient
) -> None:
    body = json.dumps({"prompt": "Hello", "stream": True}).encode()
    reply = call(sending_id(app, "mine-1"), "POST", COMPLETIONS, body)
    assert reply.headers["x-request-id"] == "mine-1"
    assert {event["id"] for event in reply.events() if event != "[DONE]"} == {"cmpl-mine-1"}
    assert [submit.name for submit in client.submits] == ["mine-1"]


@pytest.mark.parametrize("request_id", ["two words", "x" * 129, "é", "a\nb"])
def test_an_id_that_logs_cannot_hold_is_refused(app: FastAPI, request_id: str) -> None:
    with pytest.raises(RequestError, match="X-Request-Id"):
        Call.arrived("", request_id, None)
    reply = call(sending_id(app, request_id), "GET", "/v1/models")
    assert reply.status == 400
    assert reply.json()["error"]["param"] == "X-Request-Id"


def test_what_is_refused_is_a_line_too(app: FastAPI, lines: Lines) -> None:
    reply = complete(app, temperature=-1)
    (line,) = lines()
    assert (line["status"], line["error"]) == (400, "RequestError")
    assert reply.headers["x-request-id"] == line["request_id"]


def test_looking_is_not_logged(app: FastAPI, lines: Lines) -> None:
    call(app, "GET", "/metrics")
    call(app, "GET", "/v1/models")
    assert lines() == []


def test_a_client_that_leaves_has_cancelled(
    app: FastAPI, client: ScriptedClient, lines: Lines
) -> None:
    client.script = lambda submit: [output(submit, 0, [10])]
    for stream in (False, True):
        fields = {"prompt": "Hello", "stream": stream}
        call_and_hang_up(app, COMPLETIONS, fields, after_parts=int(stream))
    assert [line["status"] for line in lines()] == ["cancelled", "cancelled"]


def test_a_stream_that_breaks_says_with_what(
    app: FastAPI, client: ScriptedClient, lines: Lines
) -> None:
    client.script = lambda submit: [
        output(submit, 0, [10]),
        Failed(submit.request, "UnavailableError", "lost"),
    ]
    complete(app, stream=True)
    (line,) = lines()
    assert (line["status"], line["error"]) == (200, "UnavailableError")


def test_a_call_of_grpc_is_such_a_line(service: OpenAIService, lines: Lines) -> None:
    methods = GrpcService(service, dict)
    message = pb.GenerateRequest(prompt="Secret words")
    asyncio.run(methods.generate(message, Context(x_request_id="mine-2")))
    with pytest.raises(RequestError):
        asyncio.run(methods.generate(pb.GenerateRequest(prompt="x", n=-1), Context()))
    whole, refused = lines()
    assert (whole["request_id"], whole["kind"]) == ("mine-2", "Generate")
    assert (whole["status"], whole["num_tokens"]) == ("OK", 6)
    assert (refused["status"], refused["error"]) == ("INVALID_ARGUMENT", "RequestError")


def test_the_span_of_a_call_goes_on_at_the_target(app: FastAPI, client: ScriptedClient) -> None:
    exporter = InMemorySpanExporter()
    export_spans("ingress", SimpleSpanProcessor(exporter))
    try:
        complete(app, prompt="Secret words")
        complete(app, temperature=-1)
    finally:
        close_spans()
    whole, refused = exporter.get_finished_spans()
    assert whole.name == COMPLETIONS
    assert f"{whole.context.span_id:016x}" in client.submits[0].trace
    attributes = dict(whole.attributes or {})
    assert attributes["specrouter.num_tokens"] == 6
    assert attributes["specrouter.chains"] == ("small>target", "target")
    assert "Secret" not in str(attributes)
    assert refused.status.description == "RequestError"
