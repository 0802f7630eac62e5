"""``specrouter tasks align``: a drafter, or an adapter on one, for each task of a partition."""

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from specrouter_dist.cli.options import JsonOption, PoolOption, PromptLogArgument
from specrouter_dist.cli.output import print_json
from specrouter_dist.errors import ConfigError, NotFoundError

if TYPE_CHECKING:
    from specrouter_dist.align.config import AlignmentConfig
    from specrouter_dist.align.task_drafters import TaskReport
    from specrouter_dist.pools.loading import Pool
    from specrouter_dist.speculation.messages import TokenArray

_OF_SAMPLES = {"max_prompts", "prompts_per_shard", "max_new_tokens", "held_out_prompts", "seed"}
"""Settings that decide which prompts are held out and what the shards that are there hold."""


def align(
    prompts: PromptLogArgument,
    tasks: Annotated[Path, typer.Option("--tasks", help="What 'tasks fit' has written.")],
    out: Annotated[
        Path, typer.Option("--out", help="Directory of the new pool; an interrupted run resumes.")
    ],
    pool: PoolOption = "tiny",
    base: Annotated[
        str, typer.Option("--base", help="The drafter that every task's drafter begins as.")
    ] = "small",
    config: Annotated[
        Path | None, typer.Option("--config", help="Settings of the alignment, as YAML or JSON.")
    ] = None,
    task: Annotated[
        list[str] | None, typer.Option("--task", help="Only this task; may be repeated.")
    ] = None,
    pooled: Annotated[
        bool,
        typer.Option(
            "--pooled",
            help="One drafter for all tasks instead, with the same steps: the control that says "
            "what specialising brings. Give it an --out of its own.",
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Train a drafter for each task towards the target; write them with a pool file, and a report.

    The report has how often the drafters pick the target's own token on held-out prompts, before
    and after. A task in which no drafter became better keeps the base drafter.

    Example: specrouter tasks align prompts.jsonl --tasks tasks.safetensors --out aligned
    """
    from specrouter_dist.align.config import AlignmentConfig
    from specrouter_dist.pools.loading import load_pool, resolve_directories
    from specrouter_dist.pools.yaml_files import read_yaml
    from specrouter_dist.validation import validated

    settings = validated(
        AlignmentConfig, read_yaml(config) if config else {}, error=ConfigError, where="--config"
    )
    if settings.form == "lora":
        _require_peft()
    checked = resolve_directories(load_pool(pool))
    _check_base(checked, base, form=settings.form)
    by_task = _prompts_by_task(prompts, checked, tasks, wanted=task or (), settings=settings)

    from specrouter_dist.align.begun import go_on_with
    from specrouter_dist.align.task_drafters import POOLED, Aligner

    names = _new_names(checked, base, [POOLED] if pooled else [*by_task])
    made_of = _made_of(prompts, tasks, pool=checked.config_hash, base=base, settings=settings)
    go_on_with(made_of | _drafters([*by_task], pooled=pooled), out)
    reports = Aligner(checked, base, out, settings).align(by_task, pooled=pooled)
    file = _write_pool(checked, base, tasks, out, reports, names=names, form=settings.form)
    if as_json:
        print_json({"pool": str(file), "tasks": [r.model_dump(mode="json") for r in reports]})
    else:
        _print_for_people(file, reports)


def _require_peft() -> None:
    """
    Raises:
        ConfigError: it is not installed.
    """
    if find_spec("peft") is None:
        raise ConfigError(
            "form: lora: peft is not installed; pip install 'specrouter-dist[align]'", field="form"
        )


def _made_of(
    prompts: Path, tasks: Path, *, pool: str, base: str, settings: "AlignmentConfig"
) -> dict[str, Any]:
    """What the drafters are learned from: a directory goes on only with what it was begun with."""
    from specrouter_dist.align.begun import content_hash

    return {
        "pool": pool,
        "base drafter": base,
        "tasks": content_hash(tasks),
        "prompts": content_hash(prompts),
        "settings of samples": settings.model_dump(mode="json", include=_OF_SAMPLES),
    }


def _drafters(tasks: Sequence[str], *, pooled: bool) -> dict[str, Any]:
    """What is trained: a drafter for all is of these tasks, those for one each may get company."""
    if not pooled:
        return {"drafters": "one for each task"}
    return {"drafters": "one for all tasks", "tasks of the one drafter": sorted(tasks)}


def _check_base(pool: "Pool", base: str, *, form: str) -> None:
    from specrouter_dist.config import ModelMember
    from specrouter_dist.validation import did_you_mean, one_of

    drafters = [
        member.name
        for member in pool.config.members
        if isinstance(member, ModelMember)
        and member.role == "drafter"
        and member.engine != "synthetic"
        and (form != "lora" or member.engine != "general")
    ]
    if not drafters:
        raise NotFoundError(
            f"--pool: {pool.config.name!r} has no drafter with weights of its own to train in form "
            f"{form!r}",
            field="pool",
        )
    if base not in drafters:
        raise NotFoundError(
            f"--base: pool {pool.config.name!r} has no drafter {base!r} for form {form!r}"
            f"{did_you_mean(base, drafters)}; {one_of(drafters)}",
            field="base",
        )


def _prompts_by_task(
    path: Path, pool: "Pool", tasks: Path, *, wanted: Sequence[str], settings: "AlignmentConfig"
) -> "dict[str, list[TokenArray]]":
    """Of the tasks ``wanted``, or of all, as the classifier tells them. The rest is left out."""
    from specrouter_dist.cli.prompt_log import read_prompt_log
    from specrouter_dist.pools.checks import read_vocabulary
    from specrouter_dist.tasks.classifier import TaskClassifier
    from specrouter_dist.tasks.model import read_model, vocabulary_hash
    from specrouter_dist.text.tokenizer import Tokenizer
    from specrouter_dist.validation import did_you_mean, one_of

    directory = pool.directories[pool.config.target.name]
    classifier = TaskClassifier(read_model(tasks, vocabulary_hash(read_vocabulary(directory))))
    for name in wanted:
        if name not in classifier.names:
            raise NotFoundError(
                f"--task: no task {name!r}{did_you_mean(name, classifier.names)}; "
                f"{one_of(classifier.names)}",
                field="task",
            )
    tokenizer = Tokenizer.load(directory)
    log = read_prompt_log(path, tokenizer, most=settings.max_prompts, seed=settings.seed)
    found: dict[str, list[TokenArray]] = {name: [] for name in wanted or classifier.names}
    for prompt in log.prompts:
        told = classifier.task(prompt.tokens)
        if told in found:
            found[told].append(prompt.tokens)
    return found


def _write_pool(
    pool: "Pool",
    base: str,
    tasks: Path,
    out: Path,
    reports: "Sequence[TaskReport]",
    *,
    names: Mapping[str, str],
    form: str,
) -> Path:
    """The pool with the new drafters, by their ``names``, beside its members, in a file that can be
    moved with them."""
    import shutil

    import yaml

    from specrouter_dist.pools.loading import portable_members

    if (copy := out / "tasks.safetensors").resolve() != tasks.resolve():
        shutil.copyfile(tasks, copy)
    content: dict[str, Any] = pool.config.model_dump(mode="json", exclude_unset=True)
    members = portable_members(pool)
    (template,) = (member for member in members if member["name"] == base)
    for report in reports:
        if report.directory is not None:
            name, place = names[report.task], report.directory.name
            if form == "lora":
                own = {"kind": "lora", "name": name, "of": base, "adapter": place}
            else:
                own = {**template, "name": name, "model": place}
            members.append(own)
    content |= {"name": f"{pool.config.name}-aligned", "tasks": "tasks.safetensors"}
    content["members"] = members
    file = out / "pool.yaml"
    file.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), encoding="utf-8")
    return file


def _new_names(pool: "Pool", base: str, tasks: Sequence[str]) -> dict[str, str]:
    """What the drafter of each task is called in the pool's file.

    Raises:
        ConfigError: two members would have one name; that is found before anything is trained.
    """
    names = {task: _member_name(base, task, n) for n, task in enumerate(tasks, start=1)}
    owners = {member.name: f"one of pool {pool.config.name!r}" for member in pool.config.members}
    for task, name in names.items():
        if name in owners:
            raise ConfigError(
                f"--task: the drafter of task {task!r} would be called {name!r}, as {owners[name]} "
                "is; choose another --task, --base or --pool",
                field="task",
            )
        owners[name] = f"the one of task {task!r}"
    return names


def _member_name(base: str, task: str, number: int) -> str:
    """Members' names are ASCII, tasks are called by words of any language."""
    return f"{base}-{task}".lower() if task.isascii() else f"{base}-task-{number}"


def _print_for_people(file: Path, reports: "Sequence[TaskReport]") -> None:
    typer.echo(f"{'task':32} {'T':>4} {'before':>7} {'after':>7} {'steps':>6} {'minutes':>7}")
    for report in reports:
        for one in report.agreement:
            typer.echo(
                f"{one.task:32} {one.temperature:4.1f} {one.before:7.3f} {one.after:7.3f} "
                f"{report.steps:6} {report.seconds / 60:7.1f}"
            )
    kept = [report.task for report in reports if report.directory is None]
    if kept:
        typer.echo(f"no drafter became better than the base drafter: {', '.join(kept)}")
    typer.echo(f"pool file: {file}")
