"""What commands print."""

import json
from typing import Any

import typer


def print_json(content: Any) -> None:
    """One line of JSON, written at once, so that a reader of a pipe sees it when it is there."""
    typer.echo(json.dumps(content, ensure_ascii=False, allow_nan=False))


def mib(num_bytes: int) -> str:
    """A size for people."""
    return f"{num_bytes / 2**20:.1f} MiB"
