"""``specrouter simulate``: what a pool would do on hardware that is only described."""

from dataclasses import asdict
from itertools import groupby
from typing import TYPE_CHECKING, Annotated

import typer

from specrouter_dist.cli.options import JsonOption
from specrouter_dist.cli.output import print_json

if TYPE_CHECKING:
    from specrouter_dist.simulation.profile import Profile
    from specrouter_dist.simulation.results import ChainShares, Results


def simulate(
    profile: Annotated[
        str, typer.Argument(help="A profile's name, or a profile file (.yaml, .json).")
    ],
    seed: Annotated[int | None, typer.Option("--seed", help="Replaces the profile's seed.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Run a described pool under a virtual clock, and the target alone beside it.

    The profile states times, agreements, delays, requests and failures; the stages, the planner and
    the router are the real ones. Example: specrouter simulate llama2 --seed 1 --json
    """
    from specrouter_dist.config import Plan
    from specrouter_dist.errors import ConfigError
    from specrouter_dist.simulation.profile import Profile, load_profile
    from specrouter_dist.validation import validated

    chosen = load_profile(profile)
    if seed is not None:
        content = {**chosen.model_dump(), "seed": seed}
        chosen = validated(Profile, content, error=ConfigError)
    alone = chosen.model_copy(update={"plan": Plan(chain=(chosen.target.name,))})
    pool_results, alone_results = _run(chosen, "pool"), _run(alone, "target alone")
    if as_json:
        print_json(
            {
                "profile": chosen.model_dump(mode="json"),
                "results": asdict(pool_results),
                "target_alone": asdict(alone_results),
                "times_alone": alone_results.token_ms_mean / pool_results.token_ms_mean,
            }
        )
    else:
        _print_for_people(chosen, pool_results, alone_results)


def _run(profile: "Profile", name: str) -> "Results":
    from tqdm import tqdm

    from specrouter_dist.simulation.world import World

    with tqdm(total=profile.workload.num_requests, desc=name, unit="request", leave=False) as bar:
        return World(profile).run(lambda num_ended: bar.update(num_ended - bar.n))


def _print_for_people(profile: "Profile", pool: "Results", alone: "Results") -> None:
    typer.echo(f"{profile.name}: {profile.description}")
    typer.echo(
        f"{pool.num_requests} requests, {pool.num_tokens} tokens in {pool.duration_s:.1f} s of "
        "virtual time; every output is the target's"
    )
    rows = [
        ("ms per token, mean", pool.token_ms_mean, alone.token_ms_mean),
        ("ms per token, p50", pool.token_ms_p50, alone.token_ms_p50),
        ("ms per token, p95", pool.token_ms_p95, alone.token_ms_p95),
        ("ms to first token, p50", pool.first_token_ms_p50, alone.first_token_ms_p50),
        ("tokens/s, all requests", pool.tokens_per_second, alone.tokens_per_second),
        ("tokens per target round", pool.mean_acceptance_length, alone.mean_acceptance_length),
        ("device ms per token", pool.device_ms_per_token, alone.device_ms_per_token),
    ]
    typer.echo(f"{'':26} {'pool':>10} {'target alone':>14}")
    for name, ours, theirs in rows:
        typer.echo(f"{name:26} {ours:10.2f} {theirs:14.2f}")
    ratio = alone.token_ms_mean / pool.token_ms_mean
    typer.echo(f"{ratio:.2f} times as fast per token as the target alone")
    busy = ", ".join(f"{name} {share:.0%}" for name, share in pool.utilisation.items())
    typer.echo(f"devices busy: {busy}")
    _print_chains(pool)


def _print_chains(pool: "Results") -> None:
    typer.echo("chains, by share of the tokens:")
    for shares, intervals in groupby(pool.chain_shares, key=_rounded):
        start_s = next(intervals).start_s
        typer.echo(f"  from {start_s:.2f} s: " + ", ".join(f"{c} {n}" for c, n in shares))
    typer.echo(f"plan tables: {len(pool.plan_changes)}; re-plans of requests: {pool.num_replans}")
    for change in pool.plan_changes:
        lengths = ", ".join(str(n) for n in change.draft_tokens)
        typer.echo(f"  at {change.at_s:.2f} s: {change.chain} [{lengths}]")


def _rounded(interval: "ChainShares") -> tuple[tuple[str, str], ...]:
    return tuple((chain, f"{share:.0%}") for chain, share in interval.shares.items())
