"""A member that cannot be loaded: the start fails, says which, and leaves nothing behind."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import ray

from benchmarks.ports import free_port
from specrouter_dist.cli.backends import open_backend
from specrouter_dist.cli.options import BackendName
from specrouter_dist.cli.session import open_pool
from specrouter_dist.config import DEFAULT_LOG_FORMAT
from specrouter_dist.errors import UnavailableError
from specrouter_dist.pools.checks import PoolReport
from specrouter_dist.pools.loading import POOLS_DIRECTORY, Pool
from specrouter_dist.serving.settings import ServiceSettings
from tests.pools import write_small_pool

pytestmark = [
    pytest.mark.ray,
    pytest.mark.timeout(300),
    pytest.mark.filterwarnings("ignore:Using extra keyword arguments on `Field`"),
]


def open_pool_actors(pool: Pool, report: PoolReport, _: pytest.MonkeyPatch) -> None:
    open_backend(pool, report, BackendName.RAY)


def serve_pool(pool: Pool, report: PoolReport, monkeypatch: pytest.MonkeyPatch) -> None:
    from deployments import server

    # Its own check would find what has become of the file since.
    monkeypatch.setattr(server, "check_pool", lambda _: report)
    settings = ServiceSettings()
    where = {"host": "127.0.0.1", "port": free_port(), "grpc_port": None}
    server.run_server(pool, settings, **where, log_format=DEFAULT_LOG_FORMAT)


Start = Callable[[Pool, PoolReport, pytest.MonkeyPatch], None]


@pytest.mark.parametrize(("member", "start"), [("small", serve_pool), ("medium", open_pool_actors)])
def test_a_member_whose_file_is_damaged_behind_the_check_is_named(
    member: str, start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``small`` is the drafter, ``medium`` the target."""
    own = tmp_path / member
    shutil.copytree(POOLS_DIRECTORY / "tiny" / member, own)
    file = write_small_pool(tmp_path)
    file.write_text(file.read_text().replace(str(POOLS_DIRECTORY / "tiny" / member), str(own)))
    pool, report = open_pool(str(file), dtype=None)
    weights = own / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(UnavailableError, match=f"member '{member}' did not start"):
        start(pool, report, monkeypatch)
    assert not ray.is_initialized()
