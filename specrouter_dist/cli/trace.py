"""``--trace``: records a command's requests, writes the file and prints the shares."""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import typer

from specrouter_dist.cli.output import print_json
from specrouter_dist.cli.trace_text import trace_text
from specrouter_dist.errors import NotFoundError, RequestError, SpecRouterError
from specrouter_dist.serving.backend import Running
from specrouter_dist.tracing.chrome import chrome_trace
from specrouter_dist.tracing.picture import draw_shares
from specrouter_dist.tracing.records import WorkerTrace
from specrouter_dist.tracing.shares import hops_of, shares_of
from specrouter_dist.tracing.timeline import timeline_of


def check_trace_path(path: Path | None) -> None:
    """Before anything runs.

    Raises:
        InputError: no file can be written there.
    """
    if path is None:
        return
    if path.suffix != ".json":
        raise RequestError(f"--trace: a file that ends in .json, got {str(path)!r}", field="trace")
    if not path.parent.is_dir():
        raise NotFoundError(f"--trace: no directory {str(path.parent)!r}", field="trace")
    if path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        raise RequestError(f"--trace: cannot write {str(path)!r}", field="trace")


@contextmanager
def tracing(running: Running, path: Path | None, *, as_json: bool) -> Iterator[None]:
    """Traces what is done inside; without a path nothing."""
    if path is None:
        yield
        return
    running.start_trace()
    try:
        yield
    except BaseException:
        # A pool that goes on running is not to go on recording; what went wrong first is told.
        with suppress(SpecRouterError):
            running.take_trace()
        raise
    _publish(running.take_trace(), path, as_json=as_json)


def _publish(traces: Sequence[WorkerTrace], path: Path, *, as_json: bool) -> None:
    timeline = timeline_of(traces)
    shares, hops = shares_of(timeline), hops_of(timeline)
    summary = {
        "workers": [worker.to_json() for worker in shares],
        "hops": [hop.to_json() for hop in hops],
    }
    content = json.dumps(chrome_trace(timeline, summary), separators=(",", ":"))
    picture = path.with_suffix(".svg")
    try:
        path.write_text(content, encoding="utf-8")
        drawn = draw_shares(shares, picture)
    except OSError as error:
        raise SpecRouterError(f"--trace: cannot write {error.filename}: {error.strerror}") from None
    if as_json:
        print_json({"trace": {"file": str(path), **summary}})
        return
    typer.echo(trace_text(shares, hops, with_bars=not drawn), err=True)
    typer.echo(f"[trace: {path}{f'; bars: {picture}' if drawn else ''}]", err=True)
