"""Streams of the gRPC proxy: a client that leaves at any moment ends what it had asked for."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import grpc
import pytest

from deployments.grpc_proxy import leavable

MANY = 64
METHOD = "/test/Stream"
BIG = bytes(1 << 20)
"""Longer than what a server sends before its client reads."""


async def served(stream: Any) -> tuple[grpc.aio.Server, grpc.aio.Channel]:
    server = grpc.aio.server()
    handler = grpc.unary_stream_rpc_method_handler(leavable(stream))
    generic = grpc.method_handlers_generic_handler("test", {"Stream": handler})
    server.add_generic_rpc_handlers((generic,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    return server, grpc.aio.insecure_channel(f"127.0.0.1:{port}")


def test_a_client_that_leaves_while_messages_are_written_ends_the_stream() -> None:
    ended = asyncio.Event()

    async def stream(_: bytes, __: Any) -> AsyncGenerator[bytes, None]:
        # As Serve's does: it only learns of what happens while it waits.
        try:
            for _ in range(MANY):
                yield BIG
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            ended.set()
            raise

    async def leave() -> None:
        server, channel = await served(stream)
        async with channel:
            call = channel.unary_stream(METHOD)(b"")
            await call.read()
            call.cancel()
            await asyncio.wait_for(ended.wait(), 10)
        await server.stop(None)

    asyncio.run(leave())


def test_a_stream_and_its_failure_come_through() -> None:
    async def stream(request: bytes, context: Any) -> AsyncGenerator[bytes, None]:
        for i in range(3):
            yield request + bytes([i])
        context.set_code(grpc.StatusCode.UNAVAILABLE)
        context.set_details("lost")

    async def read() -> None:
        server, channel = await served(stream)
        async with channel:
            call = channel.unary_stream(METHOD)(b"x")
            assert [await call.read() for _ in range(3)] == [b"x\0", b"x\1", b"x\2"]
            with pytest.raises(grpc.aio.AioRpcError, match="lost"):
                await call.read()
        await server.stop(None)

    asyncio.run(read())
