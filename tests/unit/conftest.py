"""Unit tests start no Ray: what needs it to be tested belongs behind a seam, or in integration."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest
import ray

from specrouter_dist.pools.loading import POOLS_DIRECTORY


@pytest.fixture(autouse=True, scope="module")
def ray_cannot_start() -> Iterator[None]:
    def refuse(*_: Any, **__: Any) -> NoReturn:
        raise AssertionError("a unit test tried to start Ray")

    patch = pytest.MonkeyPatch()
    patch.setattr(ray, "init", refuse)
    yield
    patch.undo()


@pytest.fixture
def tiny_copy(tmp_path: Path) -> Path:
    """The pool file of a copy of the embedded pool, to be damaged."""
    shutil.copytree(POOLS_DIRECTORY / "tiny", tmp_path / "tiny")
    return Path(shutil.copy(POOLS_DIRECTORY / "tiny.yaml", tmp_path))
