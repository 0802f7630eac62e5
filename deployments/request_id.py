"""One id in the headers of an answer, where Serve adds its own."""

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from specrouter_dist.serving.calls import REQUEST_ID_HEADER


class IdOnce:
    """Serve adds the request's id to every answer, and so do the routes: theirs is left out."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI has it."""

        async def send_without(message: Message) -> None:
            if message["type"] == "http.response.start":
                del MutableHeaders(scope=message)[REQUEST_ID_HEADER]
            await send(message)

        await self._app(scope, receive, send_without)
