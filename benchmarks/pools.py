"""Pools as benchmarks want them."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from specrouter_dist.config import Dtype, LayerSkipMember, ModelMember
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


def with_slow_target(pool: Pool) -> Pool:
    """Its target in fp32, which takes some times as long: drafters pay on any machine, but not if
    they become five times slower."""
    return with_target(pool, dtype=Dtype.FP32)


def with_target(pool: Pool, **changes: Any) -> Pool:
    """With a target that differs in these fields."""
    target = pool.config.target
    members = tuple(
        member.model_copy(update=changes) if member is target else member
        for member in pool.config.members
    )
    config = pool.config.model_copy(update={"members": members})
    named = ",".join(f"{field}={value}" for field, value in sorted(changes.items()))
    return replace(pool, config=config, config_hash=f"{pool.config_hash}:{named}")


def with_exact(pool: Pool, *, exact: bool) -> Pool:
    """Exact mode on or off."""
    config = pool.config.model_copy(update={"exact": exact})
    return replace(pool, config=config, config_hash=f"{pool.config_hash}:{exact}")


def with_slims(pool: Pool, masks: Mapping[str, Sequence[str]]) -> Pool:
    """With slim members of these names, the target without the parts that their masks name."""
    slims = (
        LayerSkipMember(kind="layer_skip", name=name, of=pool.config.target.name, mask=tuple(mask))
        for name, mask in masks.items()
    )
    config = pool.config.model_copy(update={"members": (*pool.config.members, *slims)})
    return replace(pool, config=config, config_hash=f"{pool.config_hash}:{sorted(masks.items())}")
