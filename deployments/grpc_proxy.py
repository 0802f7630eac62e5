"""What Serve's gRPC proxy registers; imported by the proxy's process, so it is light.

A client that leaves while the proxy waits for the next message cancels the request. One that leaves
while the proxy writes a message would not: Serve (2.60) then forgets the replica's answer, which
goes on to its end. So its stream is read by a task of its own, which waits all the time.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

from grpc_health.v1.health_pb2_grpc import add_HealthServicer_to_server

from specrouter_dist.serving._proto.service_pb2_grpc import add_SpecRouterServicer_to_server

_Stream = Callable[[Any, Any], AsyncIterator[bytes]]
"""Of a message and the server's context."""
_Handler = Callable[[Any, Any], Coroutine[Any, Any, None]]
"""Of the same; writes to the context."""


def add_services(servicer: Any, server: Any) -> None:
    """Adds both services; for ``grpc_servicer_functions`` of Serve's ``grpc_options``."""
    make = server.service_handler_factory

    def make_leavable(service_method: str, streaming_type: Any) -> Any:
        handler = make(service_method, streaming_type)
        return leavable(handler) if streaming_type.value == "unary_stream" else handler

    server.service_handler_factory = make_leavable
    try:
        add_SpecRouterServicer_to_server(servicer, server)  # type: ignore[no-untyped-call]
        add_HealthServicer_to_server(servicer, server)
    finally:
        server.service_handler_factory = make


def leavable(stream: _Stream) -> _Handler:
    """The same stream, cancelled whenever the call ends before it.

    What has come and is not yet written is kept: at most one answer.
    """

    async def write(request: Any, context: Any) -> None:
        come: asyncio.Queue[bytes | None] = asyncio.Queue()

        async def take_all() -> None:
            async for message in stream(request, context):
                come.put_nowait(message)

        taking = asyncio.ensure_future(take_all())
        taking.add_done_callback(lambda _: come.put_nowait(None))
        try:
            while (message := await come.get()) is not None:
                await context.write(message)
        finally:
            taking.cancel()
            # The stream still looks at the context, which is only valid in here.
            await asyncio.wait([taking])
        taking.result()

    return write
