"""Workers with slim members."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.worker.slims import Slims
from tests.unit.engine.fast_models import save, small


@pytest.fixture(scope="session")
def slim_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with layers to leave out."""
    path = tmp_path_factory.mktemp("slims")
    save(small(num_hidden_layers=5), path)
    return path


@pytest.fixture
def slims(slim_directory: Path) -> Iterator[Slims]:
    """A worker of one test."""
    made = Slims(slim_directory)
    yield made
    made.worker.stop()
    assert made.worker.error is None


@pytest.fixture(scope="module")
def shared(slim_directory: Path) -> Iterator[Slims]:
    """One for many examples."""
    made = Slims(slim_directory)
    yield made
    made.worker.stop()
    assert made.worker.error is None
