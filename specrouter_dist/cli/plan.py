"""``specrouter plan``: which chain the router takes, and why."""

import sys
import time
from collections.abc import Callable
from typing import Annotated, Any

import typer

from specrouter_dist.cli.options import (
    BackendName,
    BackendOption,
    DtypeOption,
    JsonOption,
    PoolOption,
    TemperatureOption,
)
from specrouter_dist.cli.output import print_json

LOOK_EVERY_S = 1.0


def plan(
    pool: PoolOption = "tiny",
    temperature: TemperatureOption = 0.0,
    dtype: DtypeOption = None,
    backend: BackendOption = BackendName.RAY,
    live: Annotated[
        bool,
        typer.Option("--live", help="Look at a pool that runs, every second until Ctrl-C."),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Show the chain that the router chooses and what that rests on: candidates with predicted
    times, agreement with its evidence and the evidence's age, and predictions against what was
    measured afterwards.

    Example: specrouter plan --pool tiny --temperature 0.8 --json

    Example: specrouter plan --live (while specrouter serve runs)
    """
    from specrouter_dist.cli.session import open_pool
    from specrouter_dist.config import SamplingParams
    from specrouter_dist.errors import RequestError
    from specrouter_dist.validation import validated

    sampling = validated(SamplingParams, {"temperature": temperature}, error=RequestError)
    if live and backend is not BackendName.RAY:
        raise RequestError("--live: only a pool of Ray actors can be looked at", field="live")
    checked, report = open_pool(pool, dtype=dtype)
    if live:
        from specrouter_dist.actors.finding import find_router
        from specrouter_dist.serving.backend import describe_plan

        router = find_router(checked)
        _watch(lambda: describe_plan(router, sampling), as_json=as_json)
    else:
        from specrouter_dist.cli.backends import open_backend

        with open_backend(checked, report, backend) as running:
            _show(running.plan(sampling), as_json=as_json)


def _show(view: dict[str, Any], *, as_json: bool) -> None:
    from specrouter_dist.cli.plan_text import plan_text

    if as_json:
        print_json(view)
    else:
        typer.echo(plan_text(view))


def _watch(look: Callable[[], dict[str, Any]], *, as_json: bool) -> None:
    """Until interrupted: in place on a terminal, else one after the other."""
    from rich.live import Live
    from rich.text import Text

    from specrouter_dist.cli.plan_text import plan_text

    if as_json or not sys.stdout.isatty():
        while True:
            _show(look(), as_json=as_json)
            time.sleep(LOOK_EVERY_S)
    with Live(screen=True, auto_refresh=False) as screen:
        while True:
            screen.update(Text(plan_text(look()), no_wrap=True, overflow="ellipsis"), refresh=True)
            time.sleep(LOOK_EVERY_S)
