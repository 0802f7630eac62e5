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


def call(
    app: ASGIApp,
    method: str,
    path: str,
    body: bytes | Mapping[str, Any] = b"",
    headers: Mapping[str, str] | None = None,
) -> Reply:
    """One whole request."""
    return asyncio.run(call_here(app, method, path, body, headers=headers))


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
    return asyncio.run(call_here(app, "POST", path, body, after_parts, problem))


def call_slowly(
    app: ASGIApp, path: str, body: Mapping[str, Any] | None = None, *, reads_parts: int = 0
) -> Reply:
    """A request whose body never ends, or whose client reads so many parts and then no more."""
    return asyncio.run(call_here(app, "POST", path, body, stops_after=reads_parts))


async def call_here(
    app: ASGIApp,
    method: str,
    path: str,
    body: bytes | Mapping[str, Any] | None,
    hang_up_after: int | None = None,
    problem: Exception | None = None,
    *,
    stops_after: int | None = None,
    headers: Mapping[str, str] | None = None,
) -> Reply:
    """On the running loop; ``body`` None: it begins and does not end."""
    content = body if isinstance(body, bytes) else json.dumps(body or {}).encode()
    reply = Reply()
    gone = asyncio.Event()
    if hang_up_after == 0:
        # Not before the request has been read, so that it is under way.
        asyncio.get_running_loop().call_later(0.05, gone.set)
    unread = [{"type": "http.request", "body": content, "more_body": body is None}]

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
            if stops_after is not None and len(reply.parts) >= stops_after > 0:
                await gone.wait()
            reply.parts.append(message["body"])
        reply.complete = not message.get("more_body", False)
        if len(reply.parts) == hang_up_after:
            gone.set()

    async with asyncio.timeout(PATIENCE_S):
        await app(_scope(method, path, headers or {}), receive, send)
    return reply


def _scope(method: str, path: str, headers: Mapping[str, str]) -> MutableMapping[str, Any]:
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
        "headers": [
            (b"content-type", b"application/json"),
            *((name.encode(), value.encode("latin1")) for name, value in headers.items()),
        ],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
    }
