"""``specrouter demo``: the main job on four prompts, against the target alone."""

import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING

import typer

from specrouter_dist.cli.options import BackendName, BackendOption, JsonOption, PoolOption
from specrouter_dist.cli.output import print_json

if TYPE_CHECKING:
    from specrouter_dist.serving.backend import PoolBackend
    from specrouter_dist.serving.results import GenerateRequest, GenerateResult

_MAX_TOKENS = 96
_NUM_PAIRS = 7
"""Runs of each arm, interleaved. The first pair warms up and is not counted."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """One prompt through the router's chain and through the target alone."""

    result: "GenerateResult"
    tokens_per_second: float
    ratio: float
    """Median over pairs of the target's time by the chain's."""
    identical: bool


def demo(
    pool: PoolOption = "tiny",
    backend: BackendOption = BackendName.RAY,
    as_json: JsonOption = False,
) -> None:
    """Answer four prompts through the router's chain; compare speed and text with the target.

    Example: specrouter demo --pool tiny
    """
    from specrouter_dist.cli.backends import open_backend
    from specrouter_dist.cli.session import open_session
    from specrouter_dist.errors import SpecRouterError
    from specrouter_dist.pools.loading import POOLS_DIRECTORY

    session = open_session(
        pool,
        dtype=None,
        prompt=None,
        prompts=POOLS_DIRECTORY / "prompts" / "demo.jsonl",
        sampling={"max_tokens": _MAX_TOKENS, "temperature": 0.0},
    )
    target = session.pool.config.target.name
    ratios = []
    all_identical = True
    with open_backend(session.pool, session.report, backend) as running:
        pairs = zip(session.requests(target), session.requests("auto"), strict=True)
        for row, (alone, auto) in zip(session.rows, pairs, strict=True):
            found = compare(running, alone, auto)
            ratios.append(found.ratio)
            all_identical &= found.identical
            if as_json:
                print_json(_to_json(found, row.carried))
            else:
                _print_for_people(found, str(row.carried.get("task", "")))
    if not as_json:
        mean = statistics.geometric_mean(ratios)
        typer.echo(f"\n{mean:.2f}x the target alone over {len(ratios)} prompts (geometric mean)")
    if not all_identical:
        raise SpecRouterError("an output differs from the target's; run: specrouter verify")


def compare(
    running: "PoolBackend", alone: "GenerateRequest", auto: "GenerateRequest"
) -> Comparison:
    """Both arms in turn, ``_NUM_PAIRS`` times after a first that is not counted."""
    ratios, speeds = [], []
    identical = True
    for pair in range(1 + _NUM_PAIRS):
        expected, result = running.generate([alone, auto], concurrency=1)
        identical &= expected.token_ids == result.token_ids
        slow, fast = expected.tokens_per_second, result.tokens_per_second
        assert slow and fast
        if pair:
            ratios.append(fast / slow)
            speeds.append(fast)
    return Comparison(result, statistics.median(speeds), statistics.median(ratios), identical)


def _to_json(found: Comparison, carried: object) -> dict[str, object]:
    row = found.result.to_json(carried if isinstance(carried, dict) else {})
    return {
        **row,
        "median_tokens_per_second": found.tokens_per_second,
        "times_target_alone": found.ratio,
        "identical_to_target": found.identical,
    }


def _print_for_people(found: Comparison, task: str) -> None:
    result = found.result
    typer.echo(f"\n--- {task} ---\n{result.text.strip()}\n")
    typer.echo(f"chain:               {' -> '.join(result.chain)}")
    typer.echo(f"tokens/s:            {found.tokens_per_second:.0f}")
    typer.echo(f"x target alone:      {found.ratio:.2f}  (median of {_NUM_PAIRS} pairs)")
    typer.echo(f"identical to target: {'yes' if found.identical else 'NO'}")
