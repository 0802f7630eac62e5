"""The entry point: the tree of commands, and the one place where errors become exit codes."""

import sys

import typer

from specrouter_dist import __version__
from specrouter_dist.cli import (
    batch,
    demo,
    generate,
    plan,
    pool,
    serve,
    simulate,
    slim,
    tasks,
    verify,
)
from specrouter_dist.errors import InputError, SpecRouterError

EXIT_FAILED = 1
EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130

app = typer.Typer(
    name="specrouter",
    help="Speculative decoding over chains of models: faster text, the same text.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(pool.app, name="pool")
app.add_typer(slim.app, name="slim")
app.add_typer(tasks.app, name="tasks")
app.command("batch")(batch.batch)
app.command("demo")(demo.demo)
app.command("generate")(generate.generate)
app.command("plan")(plan.plan)
app.command("serve")(serve.serve)
app.command("simulate")(simulate.simulate)
app.command("verify")(verify.verify)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(
        False, "--version", callback=_print_version, is_eager=True, help="Print the version."
    ),
) -> None:
    pass


def main(arguments: list[str] | None = None) -> None:
    """Runs the command and exits: 0 done, 1 failed, 2 bad input, 130 interrupted."""
    sys.exit(_exit_code(arguments))


def _exit_code(arguments: list[str] | None) -> int:
    try:
        # Not standalone: usage errors come here too and become one line like all others.
        return app(arguments or sys.argv[1:] or ["--help"], standalone_mode=False) or 0
    except InputError as problem:
        return _failed(str(problem), EXIT_BAD_INPUT)
    except SpecRouterError as problem:
        return _failed(str(problem), EXIT_FAILED)
    except typer.TyperException as problem:
        message = problem.format_message().replace("Value error, ", "").rstrip(".")
        return _failed(f"{message}; see specrouter --help", EXIT_BAD_INPUT)
    except (KeyboardInterrupt, typer.Abort):
        return EXIT_INTERRUPTED


def _failed(message: str, exit_code: int) -> int:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return exit_code
