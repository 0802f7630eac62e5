"""Adapters in a pool that runs in this process: the text is the target's alone."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from specrouter_dist.cli.backends import open_backend
from specrouter_dist.cli.options import BackendName
from specrouter_dist.cli.session import open_pool
from specrouter_dist.pools.loading import POOLS_DIRECTORY
from specrouter_dist.serving.backend import PoolBackend
from tests.adapters import write_adapter
from tests.pools import requests, short_start, write_small_pool

pytestmark = pytest.mark.timeout(300)

CHAINS = (("one", "medium"), ("two", "medium"), ("small", "medium"), ("one", "two", "medium"))
MAX_TOKENS = 16


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PoolBackend]:
    folder: Path = tmp_path_factory.mktemp("pool")
    file = write_small_pool(folder)
    content = yaml.safe_load(file.read_text())
    content["members"][0]["quantization"] = "int8"
    for seed, name in enumerate(("one", "two")):
        write_adapter(folder / name, POOLS_DIRECTORY / "tiny" / "small", seed=seed, spread=0.02)
        content["members"].append({"name": name, "kind": "lora", "of": "small", "adapter": name})
    file.write_text(yaml.safe_dump(content))
    pool, report = open_pool(str(file), dtype=None)
    with short_start(), open_backend(pool, report, BackendName.LOCAL) as running:
        yield running


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_every_chain_with_an_adapter_prints_what_the_target_prints(
    backend: PoolBackend, temperature: float
) -> None:
    wanted = [
        r.token_ids
        for r in backend.generate(requests(("medium",), temperature, MAX_TOKENS), concurrency=8)
    ]
    by_chain = [requests(chain, temperature, MAX_TOKENS) for chain in CHAINS]
    # Chains side by side: base and adapters draft in the same forwards.
    asked = [one for group in zip(*by_chain, strict=True) for one in group]
    results = list(backend.generate(asked, concurrency=8))
    for i, (request, result) in enumerate(zip(asked, results, strict=True)):
        assert result.token_ids == wanted[i // len(CHAINS)], request.chain
    drafted = {level.draft for result in results for level in result.metrics.levels}
    assert drafted >= {"one", "two", "small"}


def test_the_router_knows_adapters_as_members(backend: PoolBackend) -> None:
    names = {member["name"] for member in backend.running.explain()["members"]}
    assert names >= {"one", "two", "small", "medium"}
