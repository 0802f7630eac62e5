"""``specrouter verify``: every chain must print what the target alone prints."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from specrouter_dist.cli.options import (
    BackendName,
    BackendOption,
    ConcurrencyOption,
    DtypeOption,
    JsonOption,
    MaxTokensOption,
    PoolOption,
    PromptOption,
    PromptsOption,
    SeedOption,
    TemperatureOption,
)
from specrouter_dist.cli.output import print_json
from specrouter_dist.errors import SpecRouterError
from specrouter_dist.speculation.tokens import common_prefix

if TYPE_CHECKING:
    from specrouter_dist.cli.session import Session
    from specrouter_dist.pools.loading import Pool
    from specrouter_dist.serving.results import GenerateResult


@dataclass(frozen=True, slots=True)
class Difference:
    """The first place where an output is not the target's."""

    prompt: int
    """Index of the prompt."""
    position: int
    """Index of the output token."""
    expected: int | None
    """The target's token; None: its output had ended."""
    got: int | None
    gap: float | None
    """How far the target's two likeliest tokens are apart there (natural log, before
    temperature): a near-tie is small, an error is not."""


def verify(
    pool: PoolOption = "tiny",
    chain: Annotated[
        list[str] | None,
        typer.Option("--chain", help="May be repeated; without it: every drafter, and all."),
    ] = None,
    prompt: PromptOption = None,
    prompts: PromptsOption = None,
    max_tokens: MaxTokensOption = 96,
    temperature: TemperatureOption = 0.0,
    seed: SeedOption = 0,
    dtype: DtypeOption = None,
    ignore_eos: Annotated[bool, typer.Option("--ignore-eos")] = False,
    backend: BackendOption = BackendName.LOCAL,
    concurrency: ConcurrencyOption = 1,
    as_json: JsonOption = False,
) -> None:
    """Compare chains with the target alone, token by token. Exit code 1 if any output differs.

    Example: specrouter verify --pool tiny --prompts prompts.jsonl --temperature 0.8
    """
    from specrouter_dist.cli.backends import open_backend
    from specrouter_dist.cli.session import open_session

    fields: dict[str, Any] = {
        "max_tokens": max_tokens,
        "temperature": temperature,
        "seed": seed,
        "ignore_eos": ignore_eos,
    }
    session = _with_gaps(
        open_session(pool, dtype=dtype, prompt=prompt, prompts=prompts, sampling=fields)
    )
    batches = {text: session.requests(text) for text in chain or default_chains(session.pool)}
    target = session.pool.config.target.name
    num_differing = 0
    with open_backend(session.pool, session.report, backend) as running:
        wanted = list(running.generate(session.requests(target), concurrency=concurrency))
        for text, requests in batches.items():
            results = list(running.generate(requests, concurrency=concurrency))
            differences = compare(wanted, results)
            num_differing += len(differences)
            _print_chain(text, len(results), differences, as_json=as_json)
    if num_differing:
        raise SpecRouterError(f"{num_differing} outputs differ from those of {target!r} alone")


def _with_gaps(session: "Session") -> "Session":
    """The two likeliest tokens tell a near-tie from an error. Synthetic members have only one."""
    if session.pool.config.synthetic is not None:
        return session
    return replace(session, sampling=session.sampling.model_copy(update={"logprobs": 2}))


def default_chains(pool: "Pool") -> list[str]:
    """Each drafter alone before the target, and all members in the file's order."""
    target = pool.config.target.name
    drafters = [member.name for member in pool.config.members if member.name != target]
    chains = [f"{drafter},{target}" for drafter in drafters]
    if len(drafters) > 1:
        chains.append(",".join([*drafters, target]))
    return chains or [target]


def compare(
    wanted: Sequence["GenerateResult"], results: Sequence["GenerateResult"]
) -> list[Difference]:
    """The first difference of each output that is not the target's."""
    differences = []
    for index, (expected, got) in enumerate(zip(wanted, results, strict=True)):
        a, b = expected.token_ids, got.token_ids
        if a == b:
            continue
        position = common_prefix(a, b)
        top = expected.logprobs[position].top if position < len(expected.logprobs) else ()
        differences.append(
            Difference(
                prompt=index,
                position=position,
                expected=a[position] if position < len(a) else None,
                got=b[position] if position < len(b) else None,
                gap=top[0][1] - top[1][1] if len(top) > 1 else None,
            )
        )
    return differences


def _print_chain(
    chain: str, num_outputs: int, differences: Sequence[Difference], *, as_json: bool
) -> None:
    if as_json:
        print_json(
            {
                "chain": chain.split(","),
                "num_outputs": num_outputs,
                "num_differing": len(differences),
                "differences": [asdict(difference) for difference in differences],
            }
        )
        return
    typer.echo(f"{chain}: {num_outputs - len(differences)} of {num_outputs} outputs equal")
    for difference in differences:
        typer.echo(f"  {difference}")
