"""What the router knows and has decided, for those who ask the service; ``GET /v1/router``."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from fastapi import FastAPI
from fastapi.responses import JSONResponse, Response

from specrouter_dist.errors import UnavailableError

TIMEOUT_S = 2.0
"""Whoever looks asks again soon."""

Explain = Callable[[], dict[str, Any]]
"""Asks the router (routing/explanation.py); may block."""


class Explaining:
    """Asks the router for clients."""

    def __init__(self, explain: Explain) -> None:
        self._explain = explain
        # One thread of its own: however many look at a router that is slow, no request waits.
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="explain")

    async def answer(self) -> dict[str, Any]:
        """Plain values.

        Raises:
            UnavailableError: the router does not answer in time.
        """
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(TIMEOUT_S):
                return await loop.run_in_executor(self._executor, self._explain)
        except TimeoutError:
            raise UnavailableError(f"the router did not answer in {TIMEOUT_S:.0f} s") from None


def add_router_route(app: FastAPI, explain: Explain) -> None:
    """Adds the route; 503 if the router does not answer in time."""
    explaining = Explaining(explain)

    @app.get("/v1/router")
    async def router() -> Response:
        content = await explaining.answer()
        return JSONResponse(content, headers={"Cache-Control": "no-store"})
