"""The calls that tests of the routes make most."""

from typing import Any

from fastapi import FastAPI

from tests.unit.serving.asgi import Reply, call

COMPLETIONS = "/v1/completions"
CHAT = "/v1/chat/completions"
USER = [{"role": "user", "content": "Hello"}]


def complete(app: FastAPI, **fields: Any) -> Reply:
    """A completion of ``Hello``, unless the fields say otherwise."""
    return call(app, "POST", COMPLETIONS, {"model": "tiny", "prompt": "Hello", **fields})


def chat(app: FastAPI, **fields: Any) -> Reply:
    """A conversation that begins with ``Hello``."""
    return call(app, "POST", CHAT, {"model": "tiny", "messages": USER, **fields})


def error(reply: Reply, status: int) -> dict[str, Any]:
    """What an error in OpenAI's shape says."""
    assert reply.status == status, reply.body
    content = reply.json()
    assert list(content) == ["error"]
    assert list(content["error"]) == ["message", "type", "param", "code"]
    wrong: dict[str, Any] = content["error"]
    return wrong
