"""A pool in this process whose forwards use one thread of the CPU, and then two."""

import pytest
import torch

from specrouter_dist.routing.observations import Observations
from specrouter_dist.worker import local
from specrouter_dist.worker.model_host import ModelHost
from specrouter_dist.worker.profiling import profile_all
from specrouter_dist.worker.threads import Threads
from tests.pools import open_tiny, requests, short_start

pytestmark = pytest.mark.timeout(300)


def test_a_second_pool_may_have_as_many_threads_as_the_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever the first one's last forward had."""
    asked: list[tuple[int, int]] = []

    def noted(hosts: list[ModelHost], *, own_threads: int, all_threads: int) -> Observations:
        asked.append((own_threads, all_threads))
        found = profile_all(hosts, own_threads=own_threads, all_threads=all_threads)
        for host in hosts:
            host.threads = Threads(1)
        return found

    monkeypatch.setattr(local, "profile_all", noted)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        for _ in range(2):
            with short_start(), open_tiny("local") as backend:
                list(backend.generate(requests(("target",), 0.0, max_tokens=2), concurrency=1))
    finally:
        torch.set_num_threads(before)
    assert asked == [(2, 2), (2, 2)]


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
