"""Errors as HTTP responses in OpenAI's shape."""

import math
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from specrouter_dist.errors import DeadlineError, RateLimitError, SpecRouterError
from specrouter_dist.serving.calls import REQUEST_ID_HEADER
from specrouter_dist.serving.http_calls import call_of
from specrouter_dist.serving.openai_errors import describe_error, error_body

_RETRY_AFTER_S = {429: 1.0, 503: 5.0}
"""Where the error does not say."""


def add_error_handlers(app: FastAPI) -> None:
    """Whatever goes wrong is answered in OpenAI's shape."""

    @app.exception_handler(SpecRouterError)
    @app.exception_handler(Exception)
    async def on_error(request: Request, problem: Exception) -> Response:
        call_of(request).error = type(problem).__name__
        response = error_response(problem)
        # That of a defect goes out around the middleware that adds it.
        response.headers.setdefault(REQUEST_ID_HEADER, call_of(request).id)
        return response

    @app.exception_handler(HTTPException)
    async def on_http_error(request: Request, problem: Exception) -> Response:
        assert isinstance(problem, HTTPException)
        message = f"{request.method} {request.url.path}: {problem.detail}"
        body = error_body(message, "invalid_request_error", None, None)
        return JSONResponse(body, status_code=problem.status_code, headers=problem.headers)

    @app.exception_handler(ClientDisconnect)
    async def on_hang_up(_: Request, __: Exception) -> Response:
        # In the middle of its body; nobody reads this.
        return Response(status_code=400)


def error_response(problem: Exception) -> Response:
    """The answer that tells of it."""
    status, body = describe_error(problem)
    return JSONResponse(body, status_code=status, headers=_headers(status, problem))


def _headers(status: int, problem: Exception) -> Mapping[str, str]:
    if status == 401:
        return {"WWW-Authenticate": "Bearer"}
    if isinstance(problem, DeadlineError):
        # OpenAI's clients would send it again, twice, and wait as long each time.
        return {"X-Should-Retry": "false"}
    retry_after_s: Any = _RETRY_AFTER_S.get(status)
    if isinstance(problem, RateLimitError):
        retry_after_s = problem.retry_after_s
    # Whole seconds, and not too early.
    return {} if retry_after_s is None else {"Retry-After": str(max(1, math.ceil(retry_after_s)))}
