"""The HTTP routes over an :class:`OpenAIService`, as an ASGI application.

A request belongs to its connection: when that closes, the request is cancelled, also while it
still waits for its first token.
"""

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Coroutine
from contextlib import aclosing
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from specrouter_dist.errors import SpecRouterError
from specrouter_dist.serving.calls import REQUEST_ID_HEADER
from specrouter_dist.serving.http_calls import CallMiddleware, call_of
from specrouter_dist.serving.json_body import parse_body
from specrouter_dist.serving.openai_errors import describe_error, error_body
from specrouter_dist.serving.openai_service import Job, OpenAIService
from specrouter_dist.serving.tokenizing import DetokenizeRequest, TokenizeRequest, Tokenizing

logger = logging.getLogger(__name__)

MAX_BODY_BYTES = 16 * 1024 * 1024
"""Longer bodies are refused before they are read to the end."""
_RETRY_AFTER_S = {429: 1, 503: 5}


def build_http(service: OpenAIService) -> FastAPI:
    """The application: completions, chat completions, token ids, models, health and metrics."""
    app = FastAPI(title="specrouter", docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(CallMiddleware)

    @app.post("/v1/completions")
    async def completions(request: Request) -> Response:
        return _answer(
            service, await service.completion(await _read_body(request), call_of(request))
        )

    @app.post("/v1/chat/completions")
    async def chat_completions(request: Request) -> Response:
        return _answer(service, await service.chat(await _read_body(request), call_of(request)))

    @app.get("/v1/models")
    async def models() -> Response:
        return JSONResponse({"object": "list", "data": [service.model_card()]})

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> Response:
        service.check_model(name)
        return JSONResponse(service.model_card())

    @app.get("/health")
    async def health() -> Response:
        return JSONResponse(await service.health())

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(service.metrics(), media_type=CONTENT_TYPE_LATEST)

    _add_tokenizing(app, service.tokenizing)
    _add_error_handlers(app)
    return app


def _add_tokenizing(app: FastAPI, tokenizing: Tokenizing) -> None:
    @app.post("/tokenize")
    async def tokenize(request: Request) -> Response:
        wanted = parse_body(TokenizeRequest, await _read_body(request))
        return JSONResponse(await asyncio.to_thread(tokenizing.tokenize, wanted))

    @app.post("/detokenize")
    async def detokenize(request: Request) -> Response:
        wanted = parse_body(DetokenizeRequest, await _read_body(request))
        return JSONResponse(await asyncio.to_thread(tokenizing.detokenize, wanted))


def _add_error_handlers(app: FastAPI) -> None:
    @app.exception_handler(SpecRouterError)
    async def on_error(request: Request, problem: Exception) -> Response:
        assert isinstance(problem, SpecRouterError)
        call_of(request).error = type(problem).__name__
        return _error_response(*describe_error(problem))

    @app.exception_handler(HTTPException)
    async def on_http_error(request: Request, problem: Exception) -> Response:
        assert isinstance(problem, HTTPException)
        message = f"{request.method} {request.url.path}: {problem.detail}"
        return _error_response(
            problem.status_code, error_body(message, "invalid_request_error", None, None)
        )

    @app.exception_handler(Exception)
    async def on_defect(request: Request, problem: Exception) -> Response:
        response = _error_response(*describe_error(problem))
        # This answer goes out around the middleware.
        response.headers[REQUEST_ID_HEADER] = call_of(request).id
        return response


def _answer(service: OpenAIService, job: Job) -> Response:
    return EventStream(service.events(job)) if job.stream else WholeAnswer(service, job)


async def _read_body(request: Request) -> bytes:
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > MAX_BODY_BYTES:
            raise HTTPException(413, f"the body is longer than {MAX_BODY_BYTES} bytes")
    return bytes(body)


class WholeAnswer(Response):
    """Makes its content when it is sent, unless the client goes away before."""

    def __init__(self, service: OpenAIService, job: Job) -> None:
        super().__init__()
        self._service = service
        self._job = job

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def work() -> None:
            await JSONResponse(await self._service.whole(self._job))(scope, receive, send)

        await _while_connected(receive, work())


class EventStream(Response):
    """Server-sent events, one per object.

    What fails before the first object is an HTTP error like any other. What fails later is an
    event with ``error``, after which the stream ends without ``[DONE]``.
    """

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[dict[str, Any], None]) -> None:
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self._events):
            await _while_connected(receive, self._send_all(send))

    async def _send_all(self, send: Send) -> None:
        async def send_event(data: str) -> None:
            body = f"data: {data}\n\n".encode()
            await send({"type": "http.response.body", "body": body, "more_body": True})

        first = await anext(self._events)
        await send(
            {
                "type": "http.response.start",
                "status": self.status_code,
                "headers": self.raw_headers,
            }
        )
        await send_event(_to_json(first))
        try:
            async for event in self._events:
                await send_event(_to_json(event))
            await send_event("[DONE]")
        except OSError:
            # The connection is gone; there is nobody to tell.
            raise
        except Exception as problem:
            logger.warning("a stream has failed", exc_info=problem)
            await send_event(_to_json(describe_error(problem)[1]))
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _while_connected(receive: Receive, work: Coroutine[Any, Any, None]) -> None:
    """Runs ``work`` to its end, or cancels it when the client disconnects."""
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            working.result()
        elif problem := leaving.exception():
            # Servers also end what they were asked for; either way nobody is there any more.
            logger.info("a connection has ended: %r", problem)
    finally:
        for task in (working, leaving):
            task.cancel()
        # Until both have cleaned up: the request is then cancelled at every level.
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _error_response(status: int, body: dict[str, Any]) -> Response:
    retry_after_s = _RETRY_AFTER_S.get(status)
    headers = {} if retry_after_s is None else {"Retry-After": str(retry_after_s)}
    return JSONResponse(body, status_code=status, headers=headers)


def _to_json(value: dict[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
