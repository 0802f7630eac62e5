"""What the router knows and has decided, for those who ask the service; ``GET /v1/router``."""

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI
from fastapi.responses import JSONResponse, Response

from specrouter_dist.serving.asking import Asking

TIMEOUT_S = 2.0
"""Whoever looks asks again soon."""

Explain = Callable[[], dict[str, Any]]
"""Asks the router (routing/explanation.py); may block."""


class Explaining:
    """Asks the router for clients."""

    def __init__(self, explain: Explain) -> None:
        self._explain = explain
        self._asking = Asking("explain", 1)

    async def answer(self) -> dict[str, Any]:
        """Plain values.

        Raises:
            UnavailableError: the router does not answer in time.
        """
        return await self._asking.ask(self._explain, TIMEOUT_S)


def add_router_route(app: FastAPI, explain: Explain) -> None:
    """Adds the route; 503 if the router does not answer in time."""
    explaining = Explaining(explain)

    @app.get("/v1/router")
    async def router() -> Response:
        content = await explaining.answer()
        return JSONResponse(content, headers={"Cache-Control": "no-store"})
