"""``specrouter plan``: which chain the router takes, and why."""

from typing import Any

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


def plan(
    pool: PoolOption = "tiny",
    temperature: TemperatureOption = 0.0,
    dtype: DtypeOption = None,
    backend: BackendOption = BackendName.RAY,
    as_json: JsonOption = False,
) -> None:
    """Show the chain and knobs that the router chooses, with the candidates it weighed.

    Example: specrouter plan --pool tiny --temperature 0.8 --json
    """
    from specrouter_dist.cli.backends import open_backend
    from specrouter_dist.cli.session import open_pool
    from specrouter_dist.config import SamplingParams
    from specrouter_dist.errors import RequestError
    from specrouter_dist.validation import validated

    sampling = validated(SamplingParams, {"temperature": temperature}, error=RequestError)
    checked, report = open_pool(pool, dtype=dtype)
    with open_backend(checked, report, backend) as running:
        explanation = running.plan(sampling)
    if as_json:
        print_json(explanation)
    else:
        _print_for_people(explanation)


def _print_for_people(explanation: dict[str, Any]) -> None:
    typer.echo(f"chain: {' -> '.join(explanation['chain'])}")
    for key, value in explanation.items():
        if key not in ("chain", "candidates", "by_load"):
            typer.echo(f"{key}: {value}")
    for load in explanation.get("by_load", ()):
        typer.echo(f"up to {load['up_to_requests']} requests at a time, by agreement:")
        for rung in load["by_agreement"]:
            chain, lengths = " -> ".join(rung["chain"]), rung["num_draft_tokens"]
            typer.echo(f"  {rung['times_usual']} x the usual: {chain} {lengths or ''}")
    typer.echo("candidates:")
    for candidate in explanation.get("candidates", ()):
        details = ", ".join(f"{k} {v}" for k, v in candidate.items() if k != "chain")
        typer.echo(f"  {' -> '.join(candidate['chain'])}: {details}")
