"""``specrouter slim search``: which layers of a pool's target may be skipped."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from specrouter_dist.cli.options import (
    BackendName,
    DtypeOption,
    JsonOption,
    PoolOption,
    PromptLogArgument,
    TemperatureOption,
)
from specrouter_dist.cli.output import print_json
from specrouter_dist.errors import NotFoundError, RequestError
from specrouter_dist.slim.settings import SearchSettings

if TYPE_CHECKING:
    from specrouter_dist.pools.loading import Pool
    from specrouter_dist.slim.finding import Findings, Found, SlimSearch

_DEFAULTS = SearchSettings()
_LOOKED_THROUGH = 4
"""Times as many prompts as are wanted: some may be too long."""


_SkipOption = Annotated[
    list[float], typer.Option("--skip", help="Share of the layers left out; may be repeated.")
]
_MaxEvaluationsOption = Annotated[
    int, typer.Option("--max-evaluations", help="Masks to try for each share.")
]
_NumPromptsOption = Annotated[
    int, typer.Option("--num-prompts", help="Drawn from the log; half are for the report.")
]
_MaxTokensOption = Annotated[
    int, typer.Option("--max-tokens", help="Most that the target writes behind each prompt.")
]
_SeedOption = Annotated[int, typer.Option("--seed", help="Of every random choice.")]
_BackendOption = Annotated[
    BackendName,
    typer.Option(
        "--backend",
        help="How the pool will run, which decides what pays. 'ray': each member on a device "
        "of its own; 'local': all in one process.",
    ),
]
_PlotOption = Annotated[
    Path | None, typer.Option("--plot", help="An image file: agreement against cost.")
]
_OutOption = Annotated[
    Path | None, typer.Option("--out", help="A pool file to write, with the new members.")
]


def search(
    prompts: PromptLogArgument,
    pool: PoolOption = "tiny",
    skip: _SkipOption = list(_DEFAULTS.skip),  # noqa: B006 - typer copies it
    max_evaluations: _MaxEvaluationsOption = _DEFAULTS.max_evaluations,
    num_prompts: _NumPromptsOption = _DEFAULTS.num_prompts,
    max_tokens: _MaxTokensOption = _DEFAULTS.max_tokens,
    temperature: TemperatureOption = _DEFAULTS.temperature,
    seed: _SeedOption = _DEFAULTS.seed,
    dtype: DtypeOption = None,
    backend: _BackendOption = BackendName.RAY,
    plot: _PlotOption = None,
    out: _OutOption = None,
    as_json: JsonOption = False,
) -> None:
    """Find masks for slim verifiers: the target without some attentions and MLPs.

    A mask is worth the time per token of the best chain through it, as the planner predicts it from
    measured times and agreement along the target's own texts. An interrupted search goes on where
    it was: masks that were tried are kept in SPECROUTER_STATE_DIR.

    Example: specrouter slim search prompts.jsonl --pool tiny --skip 0.25 --skip 0.45
    """
    from specrouter_dist.actors.state_file import state_directory
    from specrouter_dist.cli.session import open_pool
    from specrouter_dist.validation import validated

    settings = validated(
        SearchSettings,
        {
            "skip": skip,
            "max_evaluations": max_evaluations,
            "num_prompts": num_prompts,
            "max_tokens": max_tokens,
            "temperature": temperature,
            "seed": seed,
        },
        error=RequestError,
    )
    _check_files(plot, out)
    opened, report = open_pool(pool, dtype=dtype)
    search = _prepare(opened, report, settings, prompts, backend)
    _tell(search.run(state_directory()), opened, plot=plot, out=out, as_json=as_json)


def _check_files(plot: Path | None, out: Path | None) -> None:
    from specrouter_dist.slim.picture import require_matplotlib

    for option, file in (("--plot", plot), ("--out", out)):
        if file is not None and not file.parent.is_dir():
            raise NotFoundError(f"{option}: no directory {str(file.parent)!r}")
    if plot is not None:
        require_matplotlib()


def _prepare(
    pool: "Pool", report: Any, settings: SearchSettings, prompts: Path, backend: BackendName
) -> "SlimSearch":
    from specrouter_dist.cli.prompt_log import read_prompt_log
    from specrouter_dist.slim.finding import SlimSearch, check_target, halves_of
    from specrouter_dist.text.tokenizer import Tokenizer

    check_target(pool, report, settings)
    tokenizer = Tokenizer.load(pool.directories[pool.config.target.name])
    most = _LOOKED_THROUGH * settings.num_prompts
    log = read_prompt_log(prompts, tokenizer, most=most, seed=settings.seed)
    halves = halves_of(pool, report, settings, [prompt.tokens for prompt in log.prompts])
    one_device = backend is BackendName.LOCAL
    return SlimSearch(pool, report, settings, halves, one_device, _hop_us(one_device=one_device))


def _hop_us(*, one_device: bool) -> float:
    if one_device:
        return 0.0
    from specrouter_dist.actors.starting import HOP_US

    return HOP_US


def _tell(
    findings: "Findings", pool: "Pool", *, plot: Path | None, out: Path | None, as_json: bool
) -> None:
    from specrouter_dist.slim.picture import draw

    if plot is not None:
        draw(findings, plot)
    if out is not None:
        _write_pool(findings, pool, out)
    if as_json:
        print_json(_summary(findings))
    else:
        _print_for_people(findings)


def _summary(findings: "Findings") -> dict[str, Any]:
    return {
        "without": {"chain": findings.without_chain, "predicted_us": findings.without_us},
        "found": [
            {**asdict(one), "pays": findings.pays(one), "member": findings.member(one)}
            for one in findings.found
        ],
        "others": [asdict(other) for other in findings.others],
        "num_trials": len(findings.trials),
        "trials": str(findings.file),
    }


def _write_pool(findings: "Findings", pool: "Pool", file: Path) -> None:
    import yaml

    from specrouter_dist.pools.loading import portable_members

    content: dict[str, Any] = pool.config.model_dump(mode="json", exclude_unset=True)
    new = [findings.member(one) for one in findings.found]
    names = {member["name"] for member in new}
    content["members"] = [m for m in portable_members(pool) if m["name"] not in names] + new
    if pool.config.tasks is not None:
        content["tasks"] = str((pool.file.parent / Path(pool.config.tasks).expanduser()).resolve())
    file.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), encoding="utf-8")


def _print_for_people(findings: "Findings") -> None:
    import yaml

    typer.echo(
        f"{'':12} {'skip':>5} {'agreement':>10} {'cost':>6} {'pays from':>10} {'ms/token':>9}"
    )
    for other in findings.others:
        typer.echo(f"{other.name:12} {'':5} {other.agreement:10.3f} {other.cost:6.3f}")
    for one in findings.found:
        typer.echo(_row(one))
    alone = " -> ".join(findings.without_chain)
    typer.echo(f"best chain without: {alone}, {findings.without_us / 1e3:.2f} ms a token")
    paying = [one.name for one in findings.found if findings.pays(one)]
    typer.echo(f"pays: {', '.join(paying) or 'none of them'}")
    typer.echo("members for the pool file:")
    for one in findings.found:
        line = yaml.safe_dump(
            findings.member(one), default_flow_style=True, sort_keys=False, width=10_000
        )
        typer.echo(f"  - {line.strip()}")


def _row(one: "Found") -> str:
    score = one.held_out
    pays_from = "never" if one.break_even is None else f"{one.break_even:.3f}"
    return (
        f"{one.name:12} {one.skip:5.2f} {score.agreement:10.3f} {score.cost:6.3f} {pays_from:>10} "
        f"{score.predicted_us / 1e3:9.2f}  {' -> '.join(score.chain)} "
        f"{list(score.num_draft_tokens)}"
    )
