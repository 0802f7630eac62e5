"""A pool in this process whose forwards use one thread of the CPU, and then two."""

import pytest

from specrouter_dist.worker.threads import Threads
from tests.pools import open_tiny, requests, short_start

pytestmark = pytest.mark.timeout(300)


def test_the_number_of_threads_does_not_change_the_text() -> None:
    texts = []
    with short_start(), open_tiny("local") as backend:
        hosts = backend.running.worker._models
        # The tests' environment allows one.
        assert {host.threads.first for host in hosts} == {1}
        for num_threads in (1, 2, 1):
            for host in hosts:
                host.threads = Threads(num_threads)
            asked = [
                *requests(("target",), 0.0, max_tokens=16),
                *requests(("medium", "target"), 0.8, max_tokens=16),
            ]
            texts.append([result.token_ids for result in backend.generate(asked, concurrency=4)])
    assert texts[0] == texts[1] == texts[2]
