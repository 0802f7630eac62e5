"""Unit tests start no Ray: what needs it to be tested belongs behind a seam, or in integration."""

from collections.abc import Iterator
from typing import Any, NoReturn

import pytest
import ray


@pytest.fixture(autouse=True, scope="session")
def ray_cannot_start() -> Iterator[None]:
    def refuse(*_: Any, **__: Any) -> NoReturn:
        raise AssertionError("a unit test tried to start Ray")

    patch = pytest.MonkeyPatch()
    patch.setattr(ray, "init", refuse)
    yield
    patch.undo()
