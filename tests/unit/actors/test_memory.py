"""Snapshots on disk: written whole, read by the next router, never in anybody's way."""

import asyncio
import logging
import threading
from pathlib import Path

import pytest

from specrouter_dist.actors.memory import Memory
from specrouter_dist.actors.state_file import StateFile, state_directory
from specrouter_dist.routing.router import Router
from specrouter_dist.routing.traffic import GREEDY
from tests.unit.routing.learned import learned_router, new_router

SECRET = b"a secret of thirty-two bytes, say"


def memory(
    router: Router, directory: Path, *, pool: str = "pool", secret: bytes = SECRET
) -> Memory:
    return Memory(router, StateFile(directory, pool), pool, secret)


def save(directory: Path) -> None:
    """What a router that has learnt something leaves."""
    kept = memory(learned_router(), directory)
    kept.has_news = True
    asyncio.run(kept.save())


def test_the_next_router_of_the_same_workers_can_plan_at_once(tmp_path: Path) -> None:
    save(tmp_path / "state")
    router = new_router()
    assert memory(router, tmp_path / "state").recall()
    assert router.candidates(GREEDY) == learned_router().candidates(GREEDY) != []
    assert [path.name for path in (tmp_path / "state").iterdir()] == ["router-pool.msgpack"]


def test_routers_of_other_workers_or_pools_do_not_take_the_times(tmp_path: Path) -> None:
    save(tmp_path)
    router = new_router()
    assert memory(router, tmp_path, secret=b"another").recall()
    assert router.agreement.known() == learned_router().agreement.known()
    assert router.candidates(GREEDY) == []
    assert not memory(new_router(), tmp_path, pool="other").recall()


def test_the_secret_is_not_in_the_file(tmp_path: Path) -> None:
    save(tmp_path)
    content = (tmp_path / "router-pool.msgpack").read_bytes()
    assert SECRET not in content
    assert SECRET.hex().encode() not in content


def test_without_a_file_the_router_starts_fresh_and_says_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert not memory(new_router(), tmp_path / "none").recall()
    assert caplog.records == []


def test_a_broken_file_is_said_and_the_router_starts_fresh(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save(tmp_path)
    path = tmp_path / "router-pool.msgpack"
    path.write_bytes(path.read_bytes()[:-5])
    router = new_router()
    assert not memory(router, tmp_path).recall()
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert f"{path}: no whole msgpack" in record.getMessage()
    assert router.agreement.known() == []


def test_without_news_nothing_is_written(tmp_path: Path) -> None:
    asyncio.run(memory(learned_router(), tmp_path).save())
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_refuses_is_said_and_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    save(tmp_path)
    before = (tmp_path / "router-pool.msgpack").read_bytes()

    def refuse(self: Path, target: Path) -> Path:
        raise OSError("the disk is full")

    monkeypatch.setattr(Path, "replace", refuse)
    save(tmp_path)
    assert "not written: the disk is full" in caplog.text
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [before], "and nothing else"


def test_a_slow_disk_holds_up_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = threading.Event()
    monkeypatch.setattr(StateFile, "write", lambda self, data: slow.wait(10))

    async def go_on_meanwhile() -> bool:
        kept = memory(learned_router(), tmp_path)
        kept.has_news = True
        saving = asyncio.create_task(kept.save())
        await asyncio.sleep(0.1)
        is_still_writing = not saving.done()
        slow.set()
        await saving
        return is_still_writing

    assert asyncio.run(go_on_meanwhile())


def test_the_directory_is_the_environments_or_in_the_users_cache(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert state_directory().name.startswith("specrouter-tests-"), "tests leave the user's alone"
    monkeypatch.setenv("SPECROUTER_STATE_DIR", str(tmp_path))
    assert state_directory() == tmp_path
    monkeypatch.delenv("SPECROUTER_STATE_DIR")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert state_directory() == tmp_path / ".cache" / "specrouter"
