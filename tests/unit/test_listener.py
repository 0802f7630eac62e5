"""The ingress's own HTTP server, and the one id of an answer."""

import asyncio
import socket

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments import listener
from deployments.listener import Address, Listener
from deployments.request_id import IdOnce
from specrouter_dist.serving.calls import REQUEST_ID_HEADER


def app_saying(word: str) -> ASGIApp:
    async def answer(request: Request) -> PlainTextResponse:
        await asyncio.sleep(0.05)
        return PlainTextResponse(word, headers={REQUEST_ID_HEADER: word})

    return Starlette(routes=[Route("/", answer)])


@pytest.fixture
def address() -> Address:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return Address("127.0.0.1", probe.getsockname()[1])


async def ask(address: Address) -> str:
    async with httpx.AsyncClient() as client:
        return (await client.get(f"http://{address.host}:{address.port}/")).text


def test_who_connects_is_answered_from_the_start_on_and_to_the_end(address: Address) -> None:
    async def run() -> str:
        server = Listener(address)
        await server.start(app_saying("one"))
        asking = asyncio.create_task(ask(address))
        await asyncio.sleep(0.02)
        await server.stop()
        with pytest.raises(httpx.ConnectError):
            await ask(address)
        return await asking

    assert asyncio.run(run()) == "one"


def test_one_whose_server_has_ended_by_itself_says_so(address: Address) -> None:
    async def run() -> None:
        server = Listener(address)
        server.check()
        await server.start(app_saying("one"))
        assert await ask(address) == "one"
        server.check()
        assert server._server is not None and server._task is not None
        server._server.should_exit = True
        await server._task
        with pytest.raises(RuntimeError, match=f"nothing listens at 127.0.0.1:{address.port}"):
            server.check()

    asyncio.run(run())


def test_the_next_waits_for_the_port_of_one_that_ends(address: Address) -> None:
    async def run() -> tuple[str, str]:
        first, second = Listener(address), Listener(address)
        await first.start(app_saying("one"))
        starting = asyncio.create_task(second.start(app_saying("two")))
        said = await ask(address)
        await first.stop()
        await starting
        after = await ask(address)
        await second.stop()
        return said, after

    assert asyncio.run(run()) == ("one", "two")


def test_a_port_that_stays_taken_is_an_error(
    address: Address, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "_WAIT_FOR_PORT_S", 0.0)
    with (
        socket.create_server((address.host, address.port)),
        pytest.raises(OSError, match="in use"),
    ):
        asyncio.run(Listener(address).start(app_saying("one")))


def test_where_serve_adds_its_id_an_answer_has_one() -> None:
    def as_serve(app: ASGIApp) -> ASGIApp:
        async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
            async def send_with_id(message: Message) -> None:
                if message["type"] == "http.response.start":
                    message["headers"].append((b"x-request-id", b"serve"))
                await send(message)

            await app(scope, receive, send_with_id)

        return wrapped

    headers = TestClient(as_serve(IdOnce(app_saying("routes")))).get("/").headers
    assert headers.get_list(REQUEST_ID_HEADER) == ["serve"]
