"""``kill -9`` of a drafter's process in mid-generation: same tokens, no error, speed back."""

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
import ray

from specrouter_dist.actors.pool import RunningPool
from specrouter_dist.serving.backend import PoolBackend
from specrouter_dist.serving.results import GenerateRequest, GenerateResult
from tests.pools import open_tiny, requests, short_start

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]

CHAIN = ("small", "medium", "target")
BACK_WITHIN_S = 20.0
MAX_TOKENS = 400


@pytest.fixture(scope="module")
def backend() -> Iterator[PoolBackend]:
    with short_start(), open_tiny("ray") as opened:
        yield opened


def long_request(chain: tuple[str, ...]) -> GenerateRequest:
    request = requests(chain, 0.8, MAX_TOKENS)[0]
    sampling = request.sampling.model_copy(update={"ignore_eos": True})
    return replace(request, sampling=sampling)


def run(backend: PoolBackend, chain: tuple[str, ...]) -> GenerateResult:
    (result,) = backend.generate([long_request(chain)], concurrency=1)
    return result


def acceptance(result: GenerateResult) -> dict[str, int]:
    return {level.verifier: level.accepted for level in result.metrics.levels}


@pytest.mark.parametrize("victim", ["small", "medium"])
def test_a_killed_drafter_changes_no_token_and_comes_back(
    backend: PoolBackend, victim: str
) -> None:
    running = backend.running
    assert isinstance(running, RunningPool)
    wanted = run(backend, ("target",)).token_ids
    pid = ray.get(running.workers[victim].pid.remote())

    inbox: list[object] = []
    generation = backend.generation(long_request(CHAIN))
    running.client.submit(generation.submit, inbox.append)
    while not inbox:
        time.sleep(0.001)
    os.kill(pid, signal.SIGKILL)
    killed = time.monotonic()

    result = None
    seen = 0
    while result is None:
        assert time.monotonic() < killed + 60
        for message in inbox[seen:]:
            seen += 1
            result = generation.on_output(message, generation.clock()).result  # type: ignore[arg-type]
        time.sleep(0.005)
    assert result.token_ids == wanted

    while True:
        again = run(backend, CHAIN)
        assert again.token_ids == wanted
        if set(acceptance(again)) == {"medium", "target"} and min(acceptance(again).values()) > 50:
            break
        assert time.monotonic() < killed + BACK_WITHIN_S, "the drafter is not back"
    assert ray.get(running.workers[victim].pid.remote()) != pid
