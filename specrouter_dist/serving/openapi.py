"""The OpenAPI document: every route, what it takes, and every status that it answers with."""

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI
from fastapi.responses import JSONResponse, Response
from fastapi.routing import APIRoute

from specrouter_dist import __version__
from specrouter_dist.serving.body_schemas import Schema, body_schemas

_STATUSES = {
    400: "Not understood, or a field that is wrong",
    401: "No API key of this service",
    404: "No such model",
    408: "The body did not come in time, or the request was not done by its deadline",
    413: "The body is too long",
    429: "A limit is reached, or the pool is full; Retry-After says when to try again",
    503: "The target or the router cannot be reached now",
}
_ERROR: Schema = {
    "type": "object",
    "properties": {
        "error": {
            "type": "object",
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
            "required": ["message", "type", "param", "code"],
            "additionalProperties": False,
        }
    },
    "required": ["error"],
    "additionalProperties": False,
}
_RETRY_AFTER: Schema = {"Retry-After": {"schema": {"type": "string", "pattern": "^[0-9]+$"}}}
_KEY: list[Schema] = [{"key": []}]


def _object(*required: str) -> Schema:
    schema: Schema = {"type": "object", "required": list(required)}
    return {"application/json": {"schema": schema}}


def _text(media_type: str) -> Schema:
    return {media_type: {"schema": {"type": "string"}}}


def _named(model: str) -> Schema:
    return {"name": "name", "in": "path", "required": True, "schema": {"enum": [model]}}


def _operation(
    summary: str,
    content: Schema,
    errors: Sequence[int] = (),
    *,
    body: str | None = None,
    is_open: bool = False,
) -> Schema:
    responses: dict[str, Schema] = {"200": {"description": "The answer", "content": content}}
    for status in errors if is_open else (401, *errors):
        responses[str(status)] = {
            "description": _STATUSES[status],
            "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
            **({"headers": _RETRY_AFTER} if status in (429, 503) else {}),
        }
    operation: Schema = {"summary": summary, "responses": responses}
    if not is_open:
        operation["security"] = _KEY
    if body is not None:
        schema = {"$ref": f"#/components/schemas/{body}"}
        operation["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": schema}},
        }
    return operation


_BODY_ERRORS = (400, 404, 408, 413, 429)
_ANSWER = {
    **_object("id", "object", "created", "model", "choices", "usage"),
    # OpenAPI 3.1 has no words for a stream's events; each is an object of the whole's shape.
    "text/event-stream": {},
}

_OPERATIONS: Mapping[tuple[str, str], Schema] = {
    ("POST", "/v1/completions"): _operation(
        "Continue a text", _ANSWER, (*_BODY_ERRORS, 503), body="CompletionRequest"
    ),
    ("POST", "/v1/chat/completions"): _operation(
        "Answer a conversation", _ANSWER, (*_BODY_ERRORS, 503), body="ChatRequest"
    ),
    ("POST", "/tokenize"): _operation(
        "Token ids of a text or a conversation",
        _object("count", "max_model_len", "tokens"),
        _BODY_ERRORS,
        body="TokenizeRequest",
    ),
    ("POST", "/detokenize"): _operation(
        "The text of token ids", _object("prompt"), _BODY_ERRORS, body="DetokenizeRequest"
    ),
    ("GET", "/v1/models"): _operation("The one model there is", _object("object", "data")),
    ("GET", "/v1/models/{name}"): _operation(
        "The model of that name", _object("id", "object"), (404,)
    ),
    ("GET", "/v1/router"): _operation("What the router knows", _object(), (503,)),
    ("GET", "/router"): _operation("The same, as a page", _text("text/html"), is_open=True),
    ("GET", "/health"): _operation(
        "Whether real tokens come", _object("status", "model"), (503,), is_open=True
    ),
    ("GET", "/metrics"): _operation("For Prometheus", _text("text/plain"), is_open=True),
    ("GET", "/openapi.json"): _operation("This document", _object("openapi"), is_open=True),
}


def add_openapi_route(app: FastAPI, model: str, *, has_keys: bool) -> None:
    """Adds ``GET /openapi.json``, which describes the routes that the application has then."""

    @app.get("/openapi.json")
    async def openapi() -> Response:
        return JSONResponse(document(app, model, has_keys=has_keys))


def document(app: FastAPI, model: str, *, has_keys: bool) -> dict[str, Any]:
    """The OpenAPI document of the application's routes.

    Args:
        app: with all of its routes.
        model: name of the one model there is.
        has_keys: whether the service has API keys; without, it wants none.

    Raises:
        KeyError: a route that is not described here.
    """
    paths: dict[str, Schema] = {}
    for route in app.routes:
        if isinstance(route, APIRoute):
            path = route.path.replace(":path}", "}")
            methods = {m.lower(): {**_OPERATIONS[m, path]} for m in route.methods or ()}
            if not has_keys:
                for operation in methods.values():
                    operation.pop("security", None)
            paths.setdefault(path, {}).update(methods)
            if "{name}" in path:
                paths[path]["parameters"] = [_named(model)]
    return {
        "openapi": "3.1.0",
        "info": {"title": "specrouter", "version": __version__},
        "paths": paths,
        "components": {
            "schemas": {**body_schemas(model), "Error": _ERROR},
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }
