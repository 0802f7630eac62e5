"""Pools as benchmarks want them."""

from dataclasses import replace

from specrouter_dist.config import ModelMember
from specrouter_dist.pools.loading import Pool


def without_prefix_cache(pool: Pool) -> Pool:
    """Both arms compute their prompts: the second would find what the first has computed."""
    members = tuple(
        member.model_copy(update={"prefix_cache": False})
        if isinstance(member, ModelMember)
        else member
        for member in pool.config.members
    )
    config = pool.config.model_copy(update={"members": members})
    return replace(pool, config=config, config_hash=f"{pool.config_hash}:cold")


def with_exact(pool: Pool, *, exact: bool) -> Pool:
    """Exact mode on or off."""
    config = pool.config.model_copy(update={"exact": exact})
    return replace(pool, config=config, config_hash=f"{pool.config_hash}:{exact}")
