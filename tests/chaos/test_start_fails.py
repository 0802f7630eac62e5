"""A member that cannot be loaded: the start fails, says which, and leaves nothing behind."""

import shutil
from pathlib import Path

import pytest
import ray

from specrouter_dist.cli.backends import open_backend
from specrouter_dist.cli.options import BackendName
from specrouter_dist.cli.session import open_pool
from specrouter_dist.errors import UnavailableError
from specrouter_dist.pools.loading import POOLS_DIRECTORY
from tests.pools import write_small_pool

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]


@pytest.mark.parametrize("member", ["small", "medium"])
def test_a_member_whose_file_is_damaged_behind_the_check_is_named(
    member: str, tmp_path: Path
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
        open_backend(pool, report, BackendName.RAY)
    assert not ray.is_initialized()
