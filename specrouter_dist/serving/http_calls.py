"""Every HTTP request as a :class:`Call`: its id comes with the answer, its end is logged."""

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from specrouter_dist.errors import RequestError
from specrouter_dist.serving.calls import REQUEST_ID_HEADER, TRACE_HEADER, Call
from specrouter_dist.serving.openai_errors import describe_error


def call_of(request: Request) -> Call:
    """The call that a request is."""
    call: Call = request.scope["state"]["call"]
    return call


class CallMiddleware:
    """Gives every request its call. Those that only look, such as for metrics, are not logged."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI has it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            headers = Headers(scope=scope)
            ids = headers.get(REQUEST_ID_HEADER), headers.get(TRACE_HEADER)
            call = Call.arrived(scope["path"], *ids)
        except RequestError as problem:
            status, body = describe_error(problem)
            await JSONResponse(body, status)(scope, receive, send)
            return
        scope.setdefault("state", {})["call"] = call
        answer = _Answer(send, call.id)
        try:
            await self._app(scope, receive, answer)
        except Exception as problem:
            # The outermost handler answers it.
            call.error, answer.status, answer.is_whole = type(problem).__name__, 500, True
            raise
        finally:
            if scope["method"] == "POST":
                call.end(answer.status if answer.is_whole else "cancelled")


class _Answer:
    """Passes an answer on, with the id among its headers, and notes how it ends."""

    def __init__(self, send: Send, request_id: str) -> None:
        self._send = send
        self._request_id = request_id
        self.status = 0
        self.is_whole = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            MutableHeaders(scope=message)[REQUEST_ID_HEADER] = self._request_id
        await self._send(message)
        if message["type"] == "http.response.body":
            self.is_whole = not message.get("more_body", False)
