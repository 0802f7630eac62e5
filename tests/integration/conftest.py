"""What several integration tests share."""

from collections.abc import Iterator

import pytest

from specrouter_dist.worker.local import LocalPool
from tests.http_server import running_pool


@pytest.fixture(scope="session")
def local_pool() -> Iterator[LocalPool]:
    """The embedded pool in this process."""
    with running_pool() as running:
        yield running
