"""The router is killed: the one that Ray starts after it can plan, and no worker profiles again."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import ray

from specrouter_dist.actors.memory import WRITE_EVERY_S
from specrouter_dist.actors.pool import RunningPool
from specrouter_dist.actors.registry import NAMESPACE
from specrouter_dist.errors import UnavailableError
from specrouter_dist.routing.router import Router
from specrouter_dist.routing.snapshot import restore
from specrouter_dist.routing.traffic import GREEDY
from specrouter_dist.serving.backend import PoolBackend
from tests.pools import open_slow_tiny, open_tiny, requests, short_start

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]

BACK_WITHIN_S = 30.0


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    directory = tmp_path_factory.mktemp("state")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPECROUTER_STATE_DIR", str(directory))
        yield directory


@pytest.fixture(scope="module")
def backend(state: Path) -> Iterator[PoolBackend]:
    with open_slow_tiny("ray") as opened:
        yield opened


def wait_until(is_so: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + BACK_WITHIN_S
    while not is_so():
        assert time.monotonic() < end, what
        time.sleep(0.1)


def chained_pairs(opened: PoolBackend) -> set[tuple[str, str]]:
    pairs = opened.running.explain()["pairs"]
    return {(pair["draft"], pair["verifier"]) for pair in pairs if pair["chained"]}


def test_a_pool_that_is_stopped_leaves_what_it_learnt_for_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Comes first: the pool of the others would be found running."""
    monkeypatch.setenv("SPECROUTER_STATE_DIR", str(tmp_path))
    with short_start(), open_tiny("ray") as opened:
        # What the workers of so short a start have seen may still be on its way.
        wait_until(lambda: chained_pairs(opened) != set(), "the router learns of no pair")
        chained = chained_pairs(opened)
    (path,) = tmp_path.iterdir()
    pool_hash = path.stem.removeprefix("router-")
    router = Router(["small", "medium", "target"], {}, {}, hop_us=1.0)
    restore(router, path.read_bytes(), pool_hash=pool_hash, life="", now_s=time.time())
    assert {(key.draft, key.verifier) for key in router.agreement.known()} >= chained


def test_a_router_that_is_started_again_knows_what_it_knew(
    backend: PoolBackend, state: Path
) -> None:
    running = backend.running
    assert isinstance(running, RunningPool)
    time.sleep(2 * WRITE_EVERY_S)
    before, known = running.explain(), {c.chain for c in running.candidates(GREEDY)}
    assert [path.suffix for path in state.iterdir()] == [".msgpack"]
    ray.kill(ray.get_actor("tiny:router", NAMESPACE), no_restart=False)

    def has_decided() -> bool:
        try:
            return bool(running.explain()["number"] > before["number"])
        except UnavailableError:
            return False

    wait_until(has_decided, "the router is not back")
    after = running.explain()
    assert {member["name"]: set(member["forward_us"]) for member in after["members"]} == {
        member["name"]: set(member["forward_us"]) for member in before["members"]
    }
    assert {c.chain for c in running.candidates(GREEDY)} & known > {("target",)}
    newest = [pair["chained"]["age_s"] for pair in after["pairs"] if pair["chained"]]
    assert 0.0 < min(newest) < 300.0
    results = list(backend.generate(requests(None, 0.0), concurrency=1))
    assert all(result.token_ids for result in results)
    assert any(len(result.chain) > 1 for result in results)


def test_a_router_that_is_started_again_without_a_snapshot_learns_anew(
    backend: PoolBackend, state: Path
) -> None:
    running = backend.running
    assert isinstance(running, RunningPool)
    time.sleep(2 * WRITE_EVERY_S)
    ray.kill(ray.get_actor("tiny:router", NAMESPACE), no_restart=False)
    # Long before the next one is up.
    for path in state.iterdir():
        path.unlink()

    def plans_a_chain() -> bool:
        results = list(backend.generate(requests(None, 0.0), concurrency=1))
        assert all(result.token_ids for result in results)
        try:
            return len(running.table().plan(GREEDY).chain) > 1
        except UnavailableError:
            return False

    # The plans of before hold until the new router knows better.
    wait_until(plans_a_chain, "it never plans a chain")
    wait_until(lambda: len(running.candidates(GREEDY)) > 1, "it does not know its workers")
    known = running.explain()["members"]
    assert all(member["forward_us"] for member in known if member["name"] != "lookup")
