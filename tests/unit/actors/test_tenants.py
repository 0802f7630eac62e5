"""Which members are in which worker."""

from pathlib import Path

from specrouter_dist.actors.registry import PoolSpec
from specrouter_dist.actors.worker_actor import WorkerSpec
from specrouter_dist.config import LogFormat
from specrouter_dist.pools.checks import check_pool
from specrouter_dist.pools.loading import load_pool, model_members
from tests.adapters import write_adapter


def test_adapters_are_in_their_drafters_worker_and_slim_members_in_the_targets(
    tiny_copy: Path,
) -> None:
    write_adapter(tiny_copy.parent / "own", tiny_copy.parent / "tiny" / "small")
    with tiny_copy.open("a") as file:
        file.write("  - {name: small-own, kind: lora, of: small, adapter: own}\n")
        file.write("  - {name: slim, kind: layer_skip, of: target, mask: [4.mlp]}\n")
    pool = load_pool(str(tiny_copy))
    report = check_pool(pool)
    workers = {
        member.name: WorkerSpec.of(member, pool, report, b"", LogFormat.TEXT)
        for member in model_members(pool)
    }
    spec = PoolSpec("tiny", pool.config_hash, b"", "life", workers, {}, LogFormat.TEXT)
    assert spec.tenants == {
        "small": ("small-own", "small"),
        "medium": ("medium",),
        "target": ("slim", "target"),
    }
    (adapter,) = workers["small"].adapters
    assert Path(adapter.adapter) == tiny_copy.parent / "own"
