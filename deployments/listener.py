"""The ingress's own HTTP server, with no proxy of Serve's before it.

Through the proxy every event of a stream crosses one more Python process and Ray's streaming. The
one ingress of ``specrouter serve``, on the machine of its clients, needs neither.
"""

import asyncio
import errno
import socket
from dataclasses import dataclass

import uvicorn
from starlette.types import ASGIApp

_WAIT_FOR_PORT_S = 30.0
"""An ingress that has died may hold it a little longer than Serve takes to start the next."""
_ASK_EVERY_S = 0.1
_BACKLOG = 2048


@dataclass(frozen=True, slots=True)
class Address:
    """Where an ingress listens."""

    host: str
    port: int


class Listener:
    """Serves an application until it is stopped."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._server: uvicorn.Server | None = None
        self._task: asyncio.Task[None] | None = None

    async def start(self, app: ASGIApp) -> None:
        """Begins; whoever connects from now on is answered.

        Args:
            app: has been started, and is stopped, by someone else.

        Raises:
            OSError: the port stays taken, or the address is none of this machine's.
        """
        taken = await self._bind()
        # Requests are logged by their calls.
        config = uvicorn.Config(app, lifespan="off", log_config=None, access_log=False)
        self._server = uvicorn.Server(config)
        self._task = asyncio.create_task(self._server.serve(sockets=[taken]))

    def check(self) -> None:
        """
        Raises:
            RuntimeError: nobody listens any more, though nobody has stopped it.
        """
        if self._task is not None and self._task.done():
            raise RuntimeError(f"nothing listens at {self._address.host}:{self._address.port}")

    async def stop(self) -> None:
        """Lets the requests that run end, and ends."""
        if self._server is not None and self._task is not None:
            self._server.should_exit = True
            await self._task

    async def _bind(self) -> socket.socket:
        end_s = asyncio.get_running_loop().time() + _WAIT_FOR_PORT_S
        host, port = self._address.host, self._address.port
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        while True:
            try:
                return socket.create_server((host, port), family=family, backlog=_BACKLOG)
            except OSError as problem:
                if problem.errno != errno.EADDRINUSE or asyncio.get_running_loop().time() > end_s:
                    raise
            await asyncio.sleep(_ASK_EVERY_S)
