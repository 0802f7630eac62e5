"""``GET /v1/router``: what the router knows and has decided, for the service's application."""

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


def add_router_route(app: FastAPI, explain: Explain) -> None:
    """Adds the route; 503 if the router does not answer in time."""
    # One thread of its own: however many look at a router that is slow, no request waits for them.
    executor = ThreadPoolExecutor(1, thread_name_prefix="explain")

    @app.get("/v1/router")
    async def router() -> Response:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(TIMEOUT_S):
                content = await loop.run_in_executor(executor, explain)
        except TimeoutError:
            raise UnavailableError(f"the router did not answer in {TIMEOUT_S:.0f} s") from None
        return JSONResponse(content, headers={"Cache-Control": "no-store"})
