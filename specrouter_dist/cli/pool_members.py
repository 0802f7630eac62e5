"""``specrouter pool members``, ``add``, ``remove`` and ``stop``: a pool that runs on Ray."""

from typing import TYPE_CHECKING, Annotated

import typer

from specrouter_dist.cli.options import JsonOption, PoolOption
from specrouter_dist.cli.output import print_json
from specrouter_dist.errors import NotFoundError, RequestError
from specrouter_dist.validation import did_you_mean, one_of

if TYPE_CHECKING:
    from specrouter_dist.actors.router_client import RouterClient
    from specrouter_dist.pools.loading import Pool

DrafterArgument = Annotated[str, typer.Argument(help="The name of a drafter with a model.")]


def members(pool: PoolOption = "tiny", as_json: JsonOption = False) -> None:
    """How the members of a running pool are: up, starting, lost or removed.

    Example: specrouter pool members --pool tiny
    """
    loaded = _load(pool)
    _print_members(loaded, _find(loaded), as_json=as_json)


def add(drafter: DrafterArgument, pool: PoolOption = "tiny", as_json: JsonOption = False) -> None:
    """Start a drafter of a running pool that was removed; it drafts as soon as it is up.

    Where no node has what it asks for, Ray's autoscaler brings one up.

    Example: specrouter pool add small --pool tiny
    """
    loaded = _load(pool)
    _check_drafter(loaded, drafter)
    router = _find(loaded)
    router.add(drafter)
    _print_members(loaded, router, as_json=as_json)


def remove(
    drafter: DrafterArgument, pool: PoolOption = "tiny", as_json: JsonOption = False
) -> None:
    """End a drafter of a running pool; requests go on without it, with the same text.

    A node on which nothing else runs is let go by Ray's autoscaler after its idle timeout.

    Example: specrouter pool remove small --pool tiny
    """
    loaded = _load(pool)
    _check_drafter(loaded, drafter)
    router = _find(loaded)
    router.remove(drafter)
    _print_members(loaded, router, as_json=as_json)


def stop(pool: PoolOption = "tiny", as_json: JsonOption = False) -> None:
    """End all actors of a running pool, also one that 'serve deploy' has left.

    Example: specrouter pool stop --pool tiny
    """
    from specrouter_dist.actors.finding import end_pool

    loaded = _load(pool)
    end_pool(loaded)
    name = loaded.config.name
    if as_json:
        print_json({"pool": name, "stopped": True})
    else:
        typer.echo(f"pool {name!r} is stopped")


def _load(pool: str) -> "Pool":
    from specrouter_dist.pools.loading import load_pool

    return load_pool(pool)


def _find(pool: "Pool") -> "RouterClient":
    from specrouter_dist.actors.finding import find_router

    return find_router(pool)


def _check_drafter(pool: "Pool", name: str) -> None:
    """
    Raises:
        NotFoundError: the pool has no such member.
        RequestError: it is the target, or has no model.
    """
    from specrouter_dist.pools.loading import model_members

    *drafters, target = [member.name for member in model_members(pool)]
    if name in drafters:
        return
    if name == target or name in {member.name for member in pool.config.members}:
        kind = "the target" if name == target else "a member without an actor of its own"
        raise RequestError(f"drafter: {name!r} is {kind}; {one_of(drafters)}", field="drafter")
    raise NotFoundError(
        f"drafter: pool {pool.config.name!r} has no member {name!r}{did_you_mean(name, drafters)}; "
        f"{one_of(drafters)}",
        field="drafter",
    )


def _print_members(pool: "Pool", router: "RouterClient", *, as_json: bool) -> None:
    from specrouter_dist.actors.placing import why_waiting

    waiting = why_waiting(pool)
    for name, state in router.members().items():
        need = waiting.get(name) if state == "starting" else None
        if as_json:
            print_json({"member": name, "state": state, "waits_for": need})
        else:
            typer.echo(f"{name}: {state}" + (f"; {need}" if need else ""))
