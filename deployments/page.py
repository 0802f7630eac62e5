"""The live page of the router: one file, which asks ``/v1/router`` every second and draws."""

from importlib.resources import files

from fastapi import FastAPI
from fastapi.responses import HTMLResponse

_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; connect-src 'self'; "
    "script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:",
    "Cache-Control": "no-cache",
}
"""The page loads nothing, and what it is told cannot make it."""


def add_router_page(app: FastAPI) -> None:
    """Adds ``GET /router`` to the service's routes."""
    html = files("deployments").joinpath("router.html").read_text(encoding="utf-8")

    @app.get("/router")
    async def router_page() -> HTMLResponse:
        return HTMLResponse(html, headers=_HEADERS)
