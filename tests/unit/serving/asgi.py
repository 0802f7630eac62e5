"""Calls an ASGI application without a server, and can hang up in the middle."""

import asyncio
import json
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any

from starlette.types import ASGIApp

PATIENCE_S = 10.0


@dataclass(slots=True)
class Reply:
    """What came back."""

    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    parts: list[bytes] = field(default_factory=list)
    complete: bool = False

    @property
    def body(self) -> bytes:
        return b"".join(self.parts)

    def json(self) -> Any:
        return json.loads(self.body)

    def events(self) -> list[Any]:
        """The data of all server-sent events; ``[DONE]`` as a text."""
        blocks = self.body.decode().split("\n\n")
        assert blocks.pop() == ""
        assert all(block.startswith("data: ") for block in blocks)
        data = [block.removeprefix("data: ") for block in blocks]
        return [text if text == "[DONE]" else json.loads(text) for text in data]


def call(app: ASGIApp, method: str, path: str, body: bytes | Mapping[str, Any] = b"") -> Reply:
    """One whole request."""
    return asyncio.run(_call(app, method, path, body, None))


def call_and_hang_up(
    app: ASGIApp,
    path: str,
    body: Mapping[str, Any],
    *,
    after_parts: int,
    problem: Exception | None = None,
) -> Reply:
    """A request whose connection closes after ``after_parts`` parts of the body have come.

    ``receive`` then raises ``problem``, if given, as some servers' does.
    """
    return asyncio.run(_call(app, "POST", path, body, after_parts, problem))


async def _call(
    app: ASGIApp,
    method: str,
    path: str,
    body: bytes | Mapping[str, Any],
    hang_up_after: int | None,
    problem: Exception | None = None,
) -> Reply:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    reply = Reply()
    gone = asyncio.Event()
    if hang_up_after == 0:
        # Not before the request has been read, so that it is under way.
        asyncio.get_running_loop().call_later(0.05, gone.set)
    unread = [{"type": "http.request", "body": content, "more_body": False}]

    async def receive() -> MutableMapping[str, Any]:
        if unread:
            return unread.pop()
        await gone.wait()
        if problem is not None:
            raise problem
        return {"type": "http.disconnect"}

    async def send(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            reply.status = message["status"]
            reply.headers = {k.decode(): v.decode() for k, v in message["headers"]}
            return
        if message.get("body"):
            reply.parts.append(message["body"])
        reply.complete = not message.get("more_body", False)
        if len(reply.parts) == hang_up_after:
            gone.set()

    async with asyncio.timeout(PATIENCE_S):
        await app(_scope(method, path), receive, send)
    return reply


def _scope(method: str, path: str) -> MutableMapping[str, Any]:
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(b"content-type", b"application/json")],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
    }
