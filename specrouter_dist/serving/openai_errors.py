"""Errors in OpenAI's shape."""

from typing import Any

from specrouter_dist.errors import (
    AuthenticationError,
    DeadlineError,
    InputError,
    NoRoomError,
    NotFoundError,
    RateLimitError,
    UnavailableError,
)


def describe_error(problem: Exception) -> tuple[int, dict[str, Any]]:
    """HTTP status and body of an error, in OpenAI's shape."""
    match problem:
        case NotFoundError():
            code = "model_not_found" if problem.field == "model" else "not_found"
            return 404, error_body(
                str(problem), "invalid_request_error", problem.field or None, code
            )
        case InputError():
            return 400, error_body(
                str(problem), "invalid_request_error", problem.field or None, None
            )
        case AuthenticationError():
            return 401, error_body(str(problem), "invalid_request_error", None, "invalid_api_key")
        case RateLimitError():
            return 429, error_body(str(problem), "rate_limit_error", None, "rate_limit_exceeded")
        case NoRoomError():
            return 429, error_body(str(problem), "rate_limit_error", None, "no_room")
        case DeadlineError():
            return 408, error_body(str(problem), "timeout_error", None, "deadline_exceeded")
        case UnavailableError():
            return 503, error_body(str(problem), "service_unavailable_error", None, "unavailable")
        case _:
            text = f"{type(problem).__name__}: the server has failed; its log says more"
            return 500, error_body(text, "server_error", None, None)


def error_body(message: str, kind: str, param: str | None, code: str | None) -> dict[str, Any]:
    """The body of an answer that is an error."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}
