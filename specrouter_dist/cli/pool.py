"""``specrouter pool``: what pools there are, what is in one, whether it can run, and training."""

from typing import Annotated, Any

import typer

from specrouter_dist.cli.options import DtypeOption, JsonOption
from specrouter_dist.cli.output import mib, print_json

app = typer.Typer(help="List, show, check and train pools.")

PoolArgument = Annotated[str, typer.Argument(help="A pool's name, or a pool file (.yaml).")]


@app.command("list")
def list_pools(as_json: JsonOption = False) -> None:
    """The pools that come with the package.

    Example: specrouter pool list
    """
    from specrouter_dist.pools.loading import available_pools, load_pool

    for name in available_pools():
        config = load_pool(name).config
        if as_json:
            print_json(
                {
                    "name": name,
                    "description": config.description,
                    "members": [member.name for member in config.members],
                }
            )
        else:
            typer.echo(f"{name:8} {config.description}")


@app.command("show")
def show_pool(pool: PoolArgument = "tiny", as_json: JsonOption = False) -> None:
    """A pool's members and settings, defaults included. Fetches nothing.

    Example: specrouter pool show qwen3
    """
    from specrouter_dist.pools.loading import load_pool

    loaded = load_pool(pool)
    content = {
        **loaded.config.model_dump(mode="json"),
        "file": str(loaded.file),
        "directories": {name: str(path) for name, path in loaded.directories.items()},
        "config_hash": loaded.config_hash,
    }
    if as_json:
        print_json(content)
    else:
        import yaml

        typer.echo(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), nl=False)


@app.command("check")
def check(
    pool: PoolArgument = "tiny", dtype: DtypeOption = None, as_json: JsonOption = False
) -> None:
    """Whether a pool can run here: whole weights, one tokenizer, enough memory.

    Models named by hub name are fetched. Example: specrouter pool check tiny --dtype fp32
    """
    from specrouter_dist.cli.session import open_pool

    checked, report = open_pool(pool, dtype=dtype)
    content: dict[str, Any] = {
        "pool": checked.config.name,
        "ok": True,
        "members": [
            {
                "name": member.name,
                "num_parameters": member.num_parameters,
                "num_layers": member.shape.num_layers,
                "weight_bytes": member.weight_bytes,
                "kv_bytes": member.kv_bytes,
                "context_tokens": member.context_tokens,
            }
            for member in report.members
        ],
        "num_ids": report.num_ids,
        "eos_ids": sorted(report.eos_ids),
        "required_bytes": report.required_bytes,
        "available_bytes": report.available_bytes,
    }
    if as_json:
        print_json(content)
        return
    for member in report.members:
        parameters = f"{member.num_parameters:,}" if member.num_parameters else "?"
        typer.echo(
            f"{member.name}: {parameters} parameters, {mib(member.weight_bytes)} weights, "
            f"{mib(member.kv_bytes)} KV, context {member.context_tokens}"
        )
    typer.echo(
        f"one tokenizer of {report.num_ids} ids; needs {mib(report.required_bytes)} of "
        f"{mib(report.available_bytes)}: ok"
    )
