"""``specrouter tasks fit``: the kinds of prompts that a pool's traffic is made of."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from specrouter_dist.cli.options import JsonOption, PoolOption, PromptLogArgument
from specrouter_dist.cli.output import print_json
from specrouter_dist.errors import ConfigError, NotFoundError, RequestError

if TYPE_CHECKING:
    from specrouter_dist.align.partition import Partition


def fit(
    prompts: PromptLogArgument,
    out: Annotated[Path, typer.Option("--out", help="The partition to write (.safetensors).")],
    pool: PoolOption = "tiny",
    embedding: Annotated[
        Path | None,
        typer.Option(
            "--embedding",
            help="Directory of a sentence-transformers model; without it nothing is downloaded.",
        ),
    ] = None,
    max_tasks: Annotated[int, typer.Option("--max-tasks", help="Most tasks to look for.")] = 8,
    max_prompts: Annotated[
        int,
        typer.Option("--max-prompts", help="Of a longer log so many distinct ones are drawn."),
    ] = 20_000,
    seed: Annotated[int, typer.Option("--seed", help="Of every random choice.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Find the tasks in a log of prompts; the number of tasks is chosen, and the report says why.

    A pool file refers to what is written: 'tasks: tasks.safetensors'.

    Example: specrouter tasks fit prompts.jsonl --pool tiny --out tasks.safetensors
    """
    from specrouter_dist.cli.prompt_log import read_prompt_log
    from specrouter_dist.pools.checks import read_vocabulary
    from specrouter_dist.pools.loading import load_pool, resolve_directories
    from specrouter_dist.tasks.model import vocabulary_hash, write_model
    from specrouter_dist.text.tokenizer import Tokenizer

    learning = _learning()
    config = _partition_config(
        max_tasks=max_tasks, max_prompts=max_prompts, embedding=embedding, seed=seed
    )
    if not out.parent.is_dir():
        raise NotFoundError(f"--out: no directory {str(out.parent)!r}", field="out")
    if out.is_dir():
        raise RequestError(f"--out: a file is needed, got the directory {str(out)!r}", field="out")
    checked = resolve_directories(load_pool(pool))
    directory = checked.directories[checked.config.target.name]
    tokenizer = Tokenizer.load(directory)
    log = read_prompt_log(prompts, tokenizer, most=config.max_prompts, seed=config.seed)
    found = learning.fit_tasks(
        log.prompts,
        config,
        separators=sorted(tokenizer.special_ids),
        vocabulary_hash=vocabulary_hash(read_vocabulary(directory)),
    )
    write_model(found.model, out)
    summary = _summary(found, num_rows=log.num_rows, out=out)
    if as_json:
        print_json(summary)
    else:
        _print_for_people(found, summary)


def _learning() -> Any:
    """
    Raises:
        ConfigError: scikit-learn is not installed.
    """
    try:
        from specrouter_dist.align import partition
    except ModuleNotFoundError as problem:
        raise ConfigError(
            f"tasks: {problem.name} is not installed; pip install 'specrouter-dist[align]'"
        ) from None
    return partition


def _partition_config(**fields: Any) -> Any:
    from specrouter_dist.align.partition import PartitionConfig
    from specrouter_dist.validation import validated

    return validated(PartitionConfig, fields, error=ConfigError)


def _summary(found: "Partition", *, num_rows: int, out: Path) -> dict[str, Any]:
    header, learned = found.model.header, found.learned
    return {
        "out": str(out),
        "bytes": out.stat().st_size,
        "num_rows": num_rows,
        "num_prompts": header.num_prompts,
        "num_tasks": len(header.tasks),
        "why": found.choice.why,
        "trials": [asdict(trial) for trial in found.choice.trials],
        "tasks": [task.model_dump(mode="json") for task in header.tasks],
        "classifier": {
            "num_held_out": found.num_held_out,
            "accuracy": learned.accuracy,
            "confusion": learned.confusion.tolist(),
            "temperature": learned.temperature,
            "least_probability": learned.least_probability,
        },
    }


def _print_for_people(found: "Partition", summary: dict[str, Any]) -> None:
    typer.echo(f"{summary['num_rows']} rows; {summary['num_prompts']} distinct prompts were used")
    typer.echo(f"{'tasks':>5} {'stability':>9} {'+-':>6} {'silhouette':>10}")
    for trial in found.choice.trials:
        typer.echo(
            f"{trial.num_tasks:5} {trial.stability:9.3f} {trial.stability_error:6.3f} "
            f"{trial.silhouette:10.3f}"
        )
    typer.echo(found.choice.why)
    for task in found.model.header.tasks:
        typer.echo(f"  {task.name:24} {task.share:5.1%}  {', '.join(task.terms)}")
    typer.echo(
        f"the classifier gives {found.learned.accuracy:.1%} of {found.num_held_out} held-out "
        f"prompts to their cluster; a prompt is of none below p = "
        f"{found.learned.least_probability:.2f}"
    )
    typer.echo(f"{summary['out']}: {summary['bytes'] / 1024:.0f} KiB")
