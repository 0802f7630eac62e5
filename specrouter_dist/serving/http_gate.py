"""What stands before the routes: who may call them, and from which web pages.

Every path needs a key, but for those that are named here, so a new route is not open by oversight.
"""

from fastapi import FastAPI
from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from specrouter_dist.errors import AuthenticationError
from specrouter_dist.serving.admission import Admission
from specrouter_dist.serving.api_keys import bearer
from specrouter_dist.serving.calls import REQUEST_ID_HEADER
from specrouter_dist.serving.http_calls import CallMiddleware
from specrouter_dist.serving.http_errors import error_response
from specrouter_dist.serving.settings import ServiceSettings

OPEN_PATHS = frozenset({"/health", "/metrics", "/openapi.json", "/router"})
"""Load balancers, kubelets and Prometheus have no keys, and what they get holds no text and no
name of a client; the other two are files that come with the package."""


def add_gate(app: FastAPI, admission: Admission, settings: ServiceSettings) -> None:
    """Keys where there are any, a call for every request, and CORS where origins are named."""
    app.add_middleware(KeyCheck, admission=admission)
    # Around it: a refusal is a call too.
    app.add_middleware(CallMiddleware)
    if settings.cors_origins:
        # Outermost: a preflight has no key, and a refusal must be readable too.
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=["Retry-After", "WWW-Authenticate", REQUEST_ID_HEADER],
        )


class KeyCheck:
    """Finds the account of a call before its body is read."""

    def __init__(self, app: ASGIApp, admission: Admission) -> None:
        self._app = app
        self._admission = admission

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Lets it through, or answers 401."""
        path = scope.get("path", "").removeprefix(scope.get("root_path", ""))
        if scope["type"] == "http" and path not in OPEN_PATHS:
            try:
                call = scope["state"]["call"]
                call.account = self._admission.account(
                    bearer(Headers(scope=scope).get("authorization"))
                )
            except AuthenticationError as problem:
                call.error = type(problem).__name__
                await error_response(problem)(scope, receive, send)
                return
        await self._app(scope, receive, send)
