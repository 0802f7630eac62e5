"""``specrouter pool``: what pools there are, what is in one, whether it can run, and training.

The commands on a pool that runs are in cli/pool_members.py.
"""

from pathlib import Path
from typing import Annotated, Any

import typer

from specrouter_dist.cli import pool_members
from specrouter_dist.cli.options import DtypeOption, JsonOption
from specrouter_dist.cli.output import mib, print_json
from specrouter_dist.errors import ConfigError, NotFoundError

app = typer.Typer(help="List, show, check and train pools; change one that runs.")

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
            typer.echo(f"{name:26} {config.description}")


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
    """Whether a pool can run here: whole weights, one tokenizer, enough memory, its tasks.

    Models named by hub name are fetched. Example: specrouter pool check tiny --dtype fp32
    """
    from specrouter_dist.cli.session import open_pool
    from specrouter_dist.serving.tasks import open_classifier

    checked, report = open_pool(pool, dtype=dtype)
    classifier = open_classifier(checked)
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
        "tasks": list(classifier.names) if classifier else None,
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
    if classifier:
        typer.echo(f"tasks: {', '.join(classifier.names)}")
    typer.echo(
        f"one tokenizer of {report.num_ids} ids; needs {mib(report.required_bytes)} of "
        f"{mib(report.available_bytes)}: ok"
    )


@app.command("train")
def train(
    data: Annotated[
        Path, typer.Option("--data", help="Directory with train.jsonl.gz and dev.jsonl.gz.")
    ],
    out: Annotated[
        Path, typer.Option("--out", help="Directory of the new pool; an interrupted run resumes.")
    ],
    config: Annotated[
        Path | None, typer.Option("--config", help="The recipe's settings, as YAML or JSON.")
    ] = None,
    init_from: Annotated[
        Path | None, typer.Option("--init-from", help="Pool directory whose target to begin with.")
    ] = None,
    stage: Annotated[
        list[str] | None, typer.Option("--stage", help="Only this stage; may be repeated.")
    ] = None,
) -> None:
    """Train a target and its drafters; write them with a pool file, and print the report.

    Example: specrouter pool train --data data --out mypool --stage medium --stage small
    """
    from specrouter_dist.align.config import PoolTrainingConfig
    from specrouter_dist.pools.yaml_files import read_yaml
    from specrouter_dist.validation import validated

    for name in ("train.jsonl.gz", "dev.jsonl.gz"):
        if not (data / name).is_file():
            raise NotFoundError(f"--data: no file {str(data / name)!r}", field="data")
    fields = read_yaml(config) if config else {}
    if init_from is not None:
        if not (init_from / "target").is_dir():
            raise NotFoundError(
                f"--init-from: no directory {str(init_from / 'target')!r}", field="init_from"
            )
        fields["init_from"] = init_from
    if stage:
        fields["stages"] = tuple(stage)
    recipe = validated(PoolTrainingConfig, fields, error=ConfigError)

    from specrouter_dist.align.pool_training import train_pool

    report = train_pool(recipe, data, out)
    _write_pool_file(out)
    print_json(report.model_dump(mode="json"))


def _write_pool_file(directory: Path) -> None:
    """The pool file of a directory that holds target, medium and small, or some of them."""
    import yaml

    members: list[dict[str, str]] = [{"name": "lookup", "kind": "lookup"}]
    for name, role in (("small", "drafter"), ("medium", "drafter"), ("target", "target")):
        if (directory / name / "config.json").exists():
            members.append({"name": name, "kind": "model", "role": role, "model": name})
    content = yaml.safe_dump({"name": "trained", "members": members}, sort_keys=False)
    (directory / "pool.yaml").write_text(content, encoding="utf-8")


app.command("members")(pool_members.members)
app.command("add")(pool_members.add)
app.command("remove")(pool_members.remove)
app.command("stop")(pool_members.stop)
