"""How a benchmark ends: one JSON object that says what ran, where, and what came of it."""

import argparse
import json
from collections.abc import Mapping

from benchmarks.environment import environment


def add_json_argument(parser: argparse.ArgumentParser) -> None:
    """``--json``: for programs; without it for people."""
    parser.add_argument("--json", action="store_true", help="on one line")


def report(
    name: str, arguments: argparse.Namespace, results: Mapping[str, object]
) -> dict[str, object]:
    """``results`` behind the benchmark's name, its arguments and the environment."""
    return {"benchmark": name, "arguments": vars(arguments), **environment(), **results}


def print_report(name: str, arguments: argparse.Namespace, results: Mapping[str, object]) -> None:
    """Prints the report."""
    indent = None if arguments.json else 2
    content = report(name, arguments, results)
    print(json.dumps(content, indent=indent, default=str, ensure_ascii=False))
