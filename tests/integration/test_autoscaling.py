"""Ray's own autoscaler, on one machine: nodes come for the members that ask for them, and go."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import ray
import yaml

from benchmarks.clusters import ray_head
from specrouter_dist.actors.cluster import stop_ray
from specrouter_dist.actors.placing import why_waiting
from specrouter_dist.actors.pool import RunningPool
from specrouter_dist.actors.registry import MemberState
from specrouter_dist.cli.backends import open_backend
from specrouter_dist.cli.options import BackendName
from specrouter_dist.cli.session import open_pool
from specrouter_dist.pools.loading import POOLS_DIRECTORY
from specrouter_dist.routing.traffic import GREEDY
from specrouter_dist.serving.backend import PoolBackend
from tests.documented.examples import ROOT
from tests.documented.lists import AUTOSCALING
from tests.pools import requests

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]

TYPES = {"target": "H100", "small": "L4", "medium": "A100"}
"""What each member asks for; no node type has an A100."""
WITHIN_S = 60.0


@pytest.fixture
def backend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[PoolBackend]:
    monkeypatch.chdir(ROOT)
    before, _, options = AUTOSCALING.partition(" ray start --head ")
    environment = dict(variable.split("=") for variable in before.split())
    with ray_head(*options.split(), environment=environment):
        file = tmp_path / "pool.yaml"
        file.write_text(yaml.safe_dump({"name": "nodes", "members": list(members())}))
        pool, report = open_pool(str(file), dtype=None)
        try:
            with open_backend(pool, report, BackendName.RAY) as opened:
                assert set(why_waiting(pool)) == {"medium"}
                yield opened
        finally:
            stop_ray()


def members() -> Iterator[dict[str, object]]:
    for name, kind in TYPES.items():
        yield {
            "name": name,
            "kind": "model",
            "role": "target" if name == "target" else "drafter",
            "model": str(POOLS_DIRECTORY / "tiny" / name),
            # A target so slow that a drafter pays wherever it is.
            "engine": "general" if name == "target" else "fast",
            "kv_tokens": 4096,
            "resources": {f"accelerator_type:{kind}": 0.001},
            "labels": {"ray.io/accelerator-type": kind},
        }


def wait_until(is_so: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + WITHIN_S
    while not is_so():
        assert time.monotonic() < end, what
        time.sleep(0.2)


def kinds_there() -> set[str]:
    """Accelerator types of the nodes that are alive."""
    kinds = [node["Labels"].get("ray.io/accelerator-type") for node in ray.nodes() if node["Alive"]]
    return {kind for kind in kinds if kind}


def plans_with_small(running: RunningPool) -> bool:
    return "small" in running.table().plan(GREEDY).chain


def answers(backend: PoolBackend) -> list[object]:
    results = backend.generate(requests(None, 0.0, 16), concurrency=4)
    return [result.token_ids for result in results]


def test_nodes_come_for_members_and_go_with_them(backend: PoolBackend) -> None:
    running = backend.running
    assert isinstance(running, RunningPool)
    assert kinds_there() == {"H100", "L4"}
    states = running.members()
    assert states == {"small": "up", "medium": "starting", "target": "up"}
    for name in ("small", "target"):
        node_id = ray.get(running.workers[name].node_id.remote())
        (node,) = [node for node in ray.nodes() if node["NodeID"] == node_id]
        assert node["Labels"]["ray.io/accelerator-type"] == TYPES[name]
    wanted = answers(backend)
    wait_until(lambda: plans_with_small(running), "no plan has the drafter")

    running.remove("small")
    assert running.members()["small"] is MemberState.REMOVED
    wait_until(lambda: not plans_with_small(running), "a plan has the drafter that was removed")
    assert answers(backend) == wanted
    wait_until(lambda: kinds_there() == {"H100"}, "the node of the removed drafter stays")

    running.add("small")
    assert running.members()["small"] is MemberState.STARTING
    assert kinds_there() == {"H100"}
    assert not plans_with_small(running)
    assert answers(backend) == wanted
    # On a slow machine the node comes before the answers; no plan has a drafter that is not up.
    assert not plans_with_small(running) or running.members()["small"] is MemberState.UP
    wait_until(lambda: running.members()["small"] is MemberState.UP, "no node came")
    assert kinds_there() == {"H100", "L4"}
    wait_until(lambda: plans_with_small(running), "no plan has the drafter that came back")
    assert answers(backend) == wanted
