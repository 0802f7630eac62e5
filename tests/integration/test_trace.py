"""The embedded pool, traced: the same tokens, and shares that add up, on both backends."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from specrouter_dist.cli.trace import tracing
from specrouter_dist.serving.backend import PoolBackend
from tests.pools import open_tiny, requests, short_start

pytestmark = pytest.mark.timeout(300)

CHAIN = ("small", "medium", "target")


@pytest.fixture(scope="module", params=["local", pytest.param("ray", marks=pytest.mark.ray)])
def backend(request: pytest.FixtureRequest) -> Iterator[PoolBackend]:
    with short_start(), open_tiny(request.param) as opened:
        yield opened


def generate(backend: PoolBackend) -> list[list[int]]:
    results = backend.generate(requests(CHAIN, 0.8), concurrency=1)
    return [result.token_ids.tolist() for result in results]


def test_a_trace_names_all_time_and_changes_no_token(backend: PoolBackend, tmp_path: Path) -> None:
    wanted, path = generate(backend), tmp_path / "out.json"
    for _ in range(2):
        with tracing(backend.running, path, as_json=True):
            assert generate(backend) == wanted
        content = json.loads(path.read_text())
        workers = content["otherData"]["workers"]
        members = [name for worker in workers for name in worker["members_ms"]]
        assert sorted(members) == sorted(CHAIN)
        for worker in workers:
            assert worker["is_whole"]
            assert worker["unnamed_ms"] < 0.05 * worker["wall_ms"]
            times = [worker[f"{kind}_ms"] for kind in ("forward", "python", "waiting")]
            assert all(time_ms > 0 for time_ms in times)
        flows = sum(event["ph"] == "f" for event in content["traceEvents"])
        # One worker that holds all members sends no frames.
        assert (flows > 0) == (len(workers) > 1)
    assert generate(backend) == wanted
