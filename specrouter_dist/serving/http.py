"""The HTTP routes over an :class:`OpenAIService`, as an ASGI application.

A request belongs to its connection: when that closes, the request is cancelled, also while it
still waits for its first token.
"""

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import aclosing, asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from specrouter_dist.serving.exposition import Families, to_text
from specrouter_dist.serving.http_calls import call_of
from specrouter_dist.serving.http_errors import add_error_handlers
from specrouter_dist.serving.http_gate import add_gate
from specrouter_dist.serving.job import Job
from specrouter_dist.serving.json_body import read_body
from specrouter_dist.serving.openai_errors import describe_error
from specrouter_dist.serving.openai_service import OpenAIService
from specrouter_dist.serving.openapi import add_openapi_route
from specrouter_dist.serving.settings import MAX_BODY_BYTES, ServiceSettings
from specrouter_dist.serving.tokenizing import DetokenizeRequest, TokenizeRequest, Tokenizing

logger = logging.getLogger(__name__)

Scrape = Callable[[], Awaitable[Families]]


class Routes:
    """What the routes share.

    Args:
        service: answers.
        settings: of the service.
    """

    def __init__(self, service: OpenAIService, settings: ServiceSettings) -> None:
        self._service = service
        self._settings = settings

    @asynccontextmanager
    async def body(self, request: Request) -> AsyncIterator[bytes]:
        """The whole body. It counts until it is left, when all has been made of it.

        Raises:
            HTTPException: 413 or 408, too long or too slow.
            RateLimitError: with it there would be too much at a time.
        """
        limit_s = self._settings.body_timeout_s
        with self._service.admission.intake.taking() as take:
            try:
                async with asyncio.timeout(limit_s):
                    body = await _read_body(request, take)
            except TimeoutError:
                detail = f"the body did not come within {limit_s:g} s"
                # What of it may still come is not to be read.
                raise HTTPException(408, detail, {"Connection": "close"}) from None
            yield body

    def answer(self, job: Job) -> Response:
        """The job's, as it comes or whole."""
        if not job.stream:
            return WholeAnswer(self._service, job)
        return EventStream(self._service.events(job), self._settings.stall_timeout_s)


def build_http(
    service: OpenAIService,
    settings: ServiceSettings | None = None,
    scrape: Scrape | None = None,
) -> FastAPI:
    """The application: completions, chat completions, token ids, models, health and metrics.

    Args:
        service: answers; its admission knows the keys.
        settings: None: the defaults.
        scrape: what ``/metrics`` tells; None: of this service alone.
    """
    settings = settings or ServiceSettings()
    routes = Routes(service, settings)
    app = FastAPI(title="specrouter", docs_url=None, redoc_url=None, openapi_url=None)

    @app.post("/v1/completions")
    async def completions(request: Request) -> Response:
        async with routes.body(request) as body:
            job = await service.completion(body, call_of(request))
        return routes.answer(job)

    @app.post("/v1/chat/completions")
    async def chat_completions(request: Request) -> Response:
        async with routes.body(request) as body:
            job = await service.chat(body, call_of(request))
        return routes.answer(job)

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
        families = await scrape() if scrape else service.metrics()
        return Response(to_text(families), media_type=CONTENT_TYPE_LATEST)

    _add_tokenizing(app, service.tokenizing, routes)
    add_openapi_route(app, service.model, has_keys=service.admission.has_keys)
    add_error_handlers(app)
    add_gate(app, service.admission, settings)
    return app


def _add_tokenizing(app: FastAPI, tokenizing: Tokenizing, routes: Routes) -> None:
    @app.post("/tokenize")
    async def tokenize(request: Request) -> Response:
        async with routes.body(request) as body:
            wanted = await read_body(TokenizeRequest, body)
            return JSONResponse(await asyncio.to_thread(tokenizing.tokenize, wanted))

    @app.post("/detokenize")
    async def detokenize(request: Request) -> Response:
        async with routes.body(request) as body:
            wanted = await read_body(DetokenizeRequest, body)
            return JSONResponse(await asyncio.to_thread(tokenizing.detokenize, wanted))


async def _read_body(request: Request, take: Callable[[int], None]) -> bytes:
    problem = HTTPException(413, f"the body is longer than {MAX_BODY_BYTES} bytes")
    # The server has checked that it is a number, and lets no more come.
    if int(request.headers.get("content-length", 0)) > MAX_BODY_BYTES:
        raise problem
    body = bytearray()
    async for part in request.stream():
        take(len(part))
        body += part
        if len(body) > MAX_BODY_BYTES:
            raise problem
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

    Args:
        events: the objects; closed with the stream.
        stall_timeout_s: how long the client may read nothing; then the stream ends.
    """

    media_type = "text/event-stream"

    def __init__(
        self, events: AsyncGenerator[dict[str, Any], None], stall_timeout_s: float
    ) -> None:
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._events = events
        self._stall_timeout_s = stall_timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self._events):
            await _while_connected(receive, self._send_all(send))

    async def _send_all(self, send: Send) -> None:
        async def send_event(data: str) -> None:
            body = f"data: {data}\n\n".encode()
            # Servers hold a little of what is sent, then let their senders wait.
            async with asyncio.timeout(self._stall_timeout_s):
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
        except TimeoutError:
            logger.warning("a stream is cancelled: nothing was read in %g s", self._stall_timeout_s)
            return
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


def _to_json(value: dict[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
