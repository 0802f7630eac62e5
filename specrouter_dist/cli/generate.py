"""``specrouter generate``: prompts in, texts out."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from specrouter_dist.cli.options import (
    BackendName,
    BackendOption,
    ChainOption,
    ConcurrencyOption,
    DtypeOption,
    JsonOption,
    LossyOption,
    MaxTokensOption,
    PoolOption,
    PromptOption,
    PromptsOption,
    SeedOption,
    TemperatureOption,
    TraceOption,
)
from specrouter_dist.cli.output import print_json

if TYPE_CHECKING:
    from specrouter_dist.cli.prompts import PromptRow
    from specrouter_dist.serving.results import GenerateResult


def generate(
    pool: PoolOption = "tiny",
    chain: ChainOption = "auto",
    prompt: PromptOption = None,
    prompts: PromptsOption = None,
    max_tokens: MaxTokensOption = 128,
    min_tokens: Annotated[
        int, typer.Option("--min-tokens", help="No EOS or stop before this many tokens.")
    ] = 0,
    temperature: TemperatureOption = 0.0,
    top_p: Annotated[float, typer.Option("--top-p", help="Nucleus; 1 is off.")] = 1.0,
    top_k: Annotated[int, typer.Option("--top-k", help="0 is off.")] = 0,
    min_p: Annotated[float, typer.Option("--min-p", help="0 is off.")] = 0.0,
    stop: Annotated[
        list[str] | None, typer.Option("--stop", help="Ends the text before it; may be repeated.")
    ] = None,
    seed: SeedOption = 0,
    dtype: DtypeOption = None,
    ignore_eos: Annotated[
        bool, typer.Option("--ignore-eos", help="Go on to --max-tokens whatever is drawn.")
    ] = False,
    backend: BackendOption = BackendName.RAY,
    concurrency: ConcurrencyOption = 1,
    lossy: LossyOption = None,
    trace: TraceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Continue one prompt, or every prompt of a file, in order.

    Example: specrouter generate --pool tiny --chain small,medium,target --prompt "def add(" --json
    """
    from specrouter_dist.cli.backends import open_backend
    from specrouter_dist.cli.session import open_session
    from specrouter_dist.cli.trace import check_trace_path, tracing

    check_trace_path(trace)
    fields: dict[str, Any] = {
        "max_tokens": max_tokens,
        "min_tokens": min_tokens,
        "temperature": temperature,
        "top_p": top_p,
        "top_k": top_k,
        "min_p": min_p,
        "stop": stop or (),
        "seed": seed,
        "ignore_eos": ignore_eos,
    }
    session = open_session(pool, dtype=dtype, prompt=prompt, prompts=prompts, sampling=fields)
    requests = session.requests(chain, lossy)
    with (
        open_backend(session.pool, session.report, backend) as running,
        tracing(running.running, trace, as_json=as_json),
    ):
        results = running.generate(requests, concurrency=concurrency)
        _print(session.rows, results, as_json)


def _print(rows: Iterable["PromptRow"], results: Iterable["GenerateResult"], as_json: bool) -> None:
    """As they come."""
    for row, result in zip(rows, results, strict=True):
        if as_json:
            print_json(result.to_json(row.carried))
        else:
            _print_for_people(result)


def _print_for_people(result: "GenerateResult") -> None:
    typer.echo(result.text)
    speculation = result.metrics.speculation
    parts = [f"{len(result.token_ids)} tokens, {result.finish_reason}", " -> ".join(result.chain)]
    if result.tokens_per_second is not None:
        parts.append(f"{result.tokens_per_second:.1f} tokens/s")
    if speculation.mean_acceptance_length is not None:
        parts.append(f"{speculation.mean_acceptance_length:.2f} tokens a round")
    if result.tiers is not None:
        tiers = result.tiers
        parts.append(
            f"lossy: {tiers.accepted} accepted, {tiers.slim} slim, {tiers.escalated} escalated"
        )
    parts.append(f"seed {result.seed}")
    typer.echo(f"[{'; '.join(parts)}]", err=True)
