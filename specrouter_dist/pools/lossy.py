"""Whether a pool can serve a lossy request: one with tokens that the target has not verified."""

from collections.abc import Sequence

from specrouter_dist.config import LayerSkipMember, PoolConfig, SamplingParams
from specrouter_dist.errors import RequestError


def check_lossy(pool: PoolConfig, chain: Sequence[str] | None, sampling: SamplingParams) -> None:
    """
    Args:
        pool: with all members of ``chain``.
        chain: as for any request; None: the router is to choose.
        sampling: of the request.

    Raises:
        RequestError: names the field that cannot stand beside ``lossy``.
    """
    if pool.synthetic is not None:
        raise RequestError(
            "lossy: goes by probabilities, and members with engine 'synthetic' have picks alone",
            field="lossy",
        )
    slims = [member.name for member in pool.members if isinstance(member, LayerSkipMember)]
    given = ",".join(chain or ()) or "none"
    if chain is None or len(chain) < 3 or chain[-2] not in slims:
        raise RequestError(
            "chain: lossy needs a drafter, then a member of kind layer_skip, then the target; "
            f"pool {pool.name!r} has of this kind: {', '.join(slims) or 'none'}; got {given}",
            field="chain",
        )
    if others := [name for name in chain[:-2] if name in slims]:
        raise RequestError(
            f"chain: lossy goes with one member of kind layer_skip, got {given} "
            f"with {others[0]!r} above {chain[-2]!r}",
            field="chain",
        )
    if sampling.logprobs is not None or sampling.prompt_logprobs is not None:
        raise RequestError(
            "logprobs: cannot be had with lossy, since the target does not see every token in time",
            field="logprobs",
        )
