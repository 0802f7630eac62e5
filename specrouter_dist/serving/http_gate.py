"""What stands before the routes: who may call them, and from which web pages.

Every path needs a key, but for those that are named here, so a new route is not open by oversight.
"""

from fastapi import FastAPI
from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from specrouter_dist.errors import AuthenticationError
from specrouter_dist.serving.admission import Admission
from specrouter_dist.serving.http_errors import error_response
from specrouter_dist.serving.settings import ServiceSettings

OPEN_PATHS = frozenset({"/health", "/metrics", "/openapi.json", "/router"})
"""Load balancers, kubelets and Prometheus have no keys, and what they get holds no text and no
name of a client; the other two are files that come with the package."""


def add_gate(app: FastAPI, admission: Admission, settings: ServiceSettings) -> None:
    """Keys where there are any, and CORS where origins are named."""
    app.add_middleware(KeyCheck, admission=admission)
    if settings.cors_origins:
        # Outermost: a preflight has no key, and a refusal must be readable too.
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=["Retry-After", "WWW-Authenticate"],
        )


class KeyCheck:
    """Finds the account of a request, before its body is read, as ``request.state.account``."""

    def __init__(self, app: ASGIApp, admission: Admission) -> None:
        self._app = app
        self._admission = admission

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Lets it through, or answers 401."""
        path = scope.get("path", "").removeprefix(scope.get("root_path", ""))
        if scope["type"] == "http" and path not in OPEN_PATHS:
            try:
                account = self._admission.account(_secret(Headers(scope=scope)))
            except AuthenticationError as problem:
                await error_response(problem)(scope, receive, send)
                return
            scope.setdefault("state", {})["account"] = account
        await self._app(scope, receive, send)


def _secret(headers: Headers) -> str | None:
    scheme, _, secret = headers.get("authorization", "").partition(" ")
    return secret.strip() if scheme.lower() == "bearer" else None
