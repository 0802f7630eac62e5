"""One cluster for all tests of this folder, begun as docs/deploying.md says."""

from collections.abc import Iterator

import pytest

from benchmarks.clusters import CURRENT_CLUSTER
from tests.documented.lists import START
from tests.documented.places import make_place
from tests.integration.deployed.shell import Shell


@pytest.fixture(scope="package")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    assert not CURRENT_CLUSTER.exists(), "a cluster runs on this machine already"
    opened = Shell(make_place(tmp_path_factory.mktemp("reader")))
    try:
        for command in START:
            opened.run(command)
        opened.wait_until_healthy()
        yield opened
    finally:
        opened.end_everything()
