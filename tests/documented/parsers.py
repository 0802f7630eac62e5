"""What is wrong with a command that is not run here, as far as its own parser can tell."""

import argparse
import json
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable, Sequence
from importlib import import_module
from itertools import pairwise
from typing import Any, NoReturn

import pytest
from google.protobuf import json_format
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2
from typer.main import get_command

from specrouter_dist.cli.main import app
from specrouter_dist.serving._proto import service_pb2
from tests.documented.examples import ROOT

_SERVICES = {
    service.full_name: service
    for file in (service_pb2, health_pb2)
    for service in file.DESCRIPTOR.services_by_name.values()
}


class Parsed(Exception):
    """The parser has taken all arguments; nothing may run."""


class Incomplete(Exception):
    """All that is wrong is that something is not given."""


def check_command(command: str) -> None:
    """
    Args:
        command: one line of a shell.

    Raises:
        Incomplete: a reader has to add something.
        Exception: of the parser, or an assertion.
    """
    for part in command.removesuffix("&").split("&&"):
        words = shlex.split(part)
        while "=" in words[0]:
            del words[0]
        program, *arguments = words
        assert program in _CHECKS, f"no test knows {program!r}: {command}"
        _CHECKS[program](arguments)


def _check_click(command: Any, arguments: Sequence[str]) -> None:
    """By click's parser, or typer's."""
    words = list(arguments)
    while words and hasattr(command, "commands"):
        name = words.pop(0)
        assert name in command.commands, f"no command {name!r}; there are {list(command.commands)}"
        command = command.commands[name]
    if hasattr(command, "commands"):
        raise Incomplete(f"a command; there are {list(command.commands)}")
    try:
        command.make_context(command.name, words)
    except Exception as problem:
        # Of click, or of the click that typer brings.
        if type(problem).__name__ in ("MissingParameter", "BadOptionUsage"):
            raise Incomplete(str(problem)) from None
        raise


def _check_specrouter(arguments: Sequence[str]) -> None:
    _check_click(get_command(app), arguments)


def _check_ray(arguments: Sequence[str]) -> None:
    from ray.scripts.scripts import cli

    _check_click(cli, arguments)


def _check_serve(arguments: Sequence[str]) -> None:
    from ray.serve.scripts import cli

    _check_click(cli, arguments)


def _check_schemathesis(arguments: Sequence[str]) -> None:
    from schemathesis.cli import schemathesis

    _check_click(schemathesis, arguments)


def _check_python(arguments: Sequence[str]) -> None:
    """By the argument parser of the module's own ``main``."""
    option, module, *rest = arguments
    assert option == "-m"
    parse = argparse.ArgumentParser.parse_args

    def parse_only(parser: argparse.ArgumentParser, *given: Any) -> None:
        raise Parsed(parse(parser, *given))

    def refuse(_: argparse.ArgumentParser, message: str) -> NoReturn:
        is_missing = message.startswith("the following arguments are required")
        raise (Incomplete if is_missing else ValueError)(message)

    main = import_module(module).main
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [module, *rest])
        patch.setattr(argparse.ArgumentParser, "parse_args", parse_only)
        patch.setattr(argparse.ArgumentParser, "error", refuse)
        with pytest.raises(Parsed):
            main()


def _check_make(arguments: Sequence[str]) -> None:
    """By make, and what it would run of ours by the parser of that."""
    command = ["make", "--dry-run", "--no-print-directory", *arguments]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for line in printed.replace("\\\n", "").splitlines():
        program, _, rest = line.removeprefix(".venv/bin/").partition(" ")
        is_ours = program == "specrouter" or (program == "python" and "-m benchmarks." in rest)
        if line.startswith(".venv/bin/") and is_ours:
            check_command(f"{program} {rest}")


def _check_pip(arguments: Sequence[str]) -> None:
    install, package = arguments
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    name, _, extra = package.removesuffix("]").partition("[")
    assert (install, name) == ("install", project["name"])
    assert extra in project["optional-dependencies"]


def _check_files(arguments: Sequence[str]) -> None:
    """Those that are given with ``-f``, the only words here that could be wrong alone."""
    for option, file in pairwise(arguments):
        assert option != "-f" or (ROOT / file).is_file(), f"no such file: {file}"


def _check_grpcurl(arguments: Sequence[str]) -> None:
    """By the messages of the service: methods exist, and their requests are such messages."""
    *options, asked = arguments
    if "describe" in options:
        assert service_pb2.DESCRIPTOR.message_types_by_name[asked.removeprefix("specrouter.v1.")]
    elif asked != "list":
        service, method = asked.split("/")
        kind = _SERVICES[service].methods_by_name[method].input_type
        body = json.loads(options[options.index("-d") + 1]) if "-d" in options else {}
        json_format.ParseDict(body, GetMessageClass(kind)())


def _check_nothing(_: Sequence[str]) -> None:
    """A program of others, which need not be here."""


_CHECKS: dict[str, Callable[[Sequence[str]], None]] = {
    "docker": _check_files,
    "git": _check_nothing,
    "cd": _check_nothing,
    "grpcurl": _check_grpcurl,
    "hf": _check_nothing,
    "jq": _check_nothing,
    "kubectl": _check_files,
    "make": _check_make,
    "pip": _check_pip,
    "python": _check_python,
    "ray": _check_ray,
    "schemathesis": _check_schemathesis,
    "serve": _check_serve,
    "specrouter": _check_specrouter,
}
