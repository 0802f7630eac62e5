"""An engine that fails takes its requests with it, not the process that asked."""

import time

import pytest

from specrouter_dist.engine.fast import FastEngine
from specrouter_dist.errors import UnavailableError
from tests.pools import open_tiny, requests, short_start

pytestmark = pytest.mark.timeout(120)


def test_requests_fail_and_the_pool_can_be_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: FastEngine, batch: object) -> object:
        raise RuntimeError("the device is gone")

    with short_start(), open_tiny("local") as backend:
        monkeypatch.setattr(FastEngine, "extend", broken)
        for _ in range(2):
            with pytest.raises(UnavailableError, match="the device is gone"):
                list(backend.generate(requests(("target",), 0.0)[:2], concurrency=2))
        closing = time.monotonic()
    assert time.monotonic() - closing < 10
