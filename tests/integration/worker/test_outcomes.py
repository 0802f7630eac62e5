"""Drafters that prepare for the outcomes of a verify, in workers of their own."""

import queue
import time
from collections.abc import Callable, Iterator

import pytest

from specrouter_dist.config import SamplingParams
from specrouter_dist.routing.observations import Observations, OutcomeKey
from specrouter_dist.routing.traffic import Traffic
from specrouter_dist.speculation.preparing import Preparations
from specrouter_dist.worker.model_host import ModelHost
from specrouter_dist.worker.posts import Call
from specrouter_dist.worker.session import Session
from tests.integration.worker.toys import WAIT_S, Toys, plan

PROMPT = [1, 2, 3, 4, 5]
VERIFY_S = 0.002


def sampling(temperature: float = 0.8, max_tokens: int = 200) -> SamplingParams:
    return SamplingParams(temperature=temperature, max_tokens=max_tokens, seed=7)


def slow_down(toys: Toys) -> None:
    """A verify leaves its drafter time, as a large target's does."""
    engine = toys.engines["target"]
    extend = engine.extend

    def slow(batch):  # type: ignore[no-untyped-def]
        time.sleep(VERIFY_S)
        return extend(batch)

    engine.extend = slow  # type: ignore[method-assign]


@pytest.fixture
def toys() -> Iterator[Toys]:
    toys = Toys(["small"], ["medium"], ["target"])
    slow_down(toys)
    yield toys
    toys.stop()


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < end, "it did not come true"
        time.sleep(0.005)


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_the_text_stays_and_answers_are_there(toys: Toys, temperature: float) -> None:
    params = sampling(temperature)
    wanted, _ = toys.collect(toys.submit(PROMPT, plan("target"), params))
    for chain in (("small", "target"), ("medium", "target"), ("small", "medium", "target")):
        for count in (1, 4):
            request = toys.submit(PROMPT, plan(*chain, outcomes=count), params)
            assert toys.collect(request)[0] == wanted
    taken: queue.SimpleQueue[Observations] = queue.SimpleQueue()
    worker = toys.workers["medium"]
    worker.hub.post(Call(lambda: taken.put(worker.take_observations())))
    found = taken.get(timeout=WAIT_S).outcomes
    traffic = Traffic("warm" if temperature else "greedy")
    assert found.keys() == {OutcomeKey("medium", traffic, count) for count in (1, 4)}
    assert all(counts.is_plausible and sum(counts.num_ready) > 5 for counts in found.values())


def test_nothing_is_left_when_requests_are_done(toys: Toys) -> None:
    for chain in (("small", "target"), ("small", "medium", "target")):
        toys.collect(toys.submit(PROMPT, plan(*chain, outcomes=4), sampling()))
    wait_until(lambda: all(engine.num_open == 0 for engine in toys.engines.values()))


def test_a_parked_drafter_holds_its_own_slot_only(toys: Toys) -> None:
    toys.submit(PROMPT, plan("small", "target", outcomes=4), sampling(max_tokens=3000))
    wait_until(lambda: toys.engines["small"].num_open > 1)
    # It dies in a verify: no Truth comes any more.
    toys.workers["target"].stop()
    wait_until(lambda: bool(toys.workers["small"]._chains._parking._parked))
    assert toys.engines["small"].num_open == 1
    toys.start(["target"])


def test_guesses_give_way_to_sessions() -> None:
    toys = Toys(["small"], ["target"], max_sessions=2)
    slow_down(toys)
    try:
        long, chain = sampling(max_tokens=2000), plan("small", "target", outcomes=4)
        first = toys.submit(PROMPT, chain, long)
        wait_until(lambda: toys.engines["small"].num_open == 2)
        _, last = toys.collect(toys.submit(PROMPT, chain, sampling()))
        assert last.stats is not None
        assert last.stats["attached"] == ("small", "target")
        toys.cancel(first)
        toys.collect(first)
    finally:
        toys.stop()


def test_nothing_is_prepared_while_a_step_is_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    hosts: dict[Preparations[Session], ModelHost] = {}
    made = ModelHost.__init__

    def remember(self: ModelHost, *args, **options) -> None:  # type: ignore[no-untyped-def]
        made(self, *args, **options)
        hosts[self.preparations] = self

    monkeypatch.setattr(ModelHost, "__init__", remember)
    advance, ready = Preparations.advance, []

    def watched(self: Preparations[Session]) -> Session | None:
        ready.append(len(hosts[self].ready))
        return advance(self)

    monkeypatch.setattr(Preparations, "advance", watched)
    pair = Toys(["small"], ["target"])
    slow_down(pair)
    try:
        chain = plan("small", "target", outcomes=2)
        requests = [pair.submit([i + 1, 2], chain, sampling()) for i in range(4)]
        for request in requests:
            pair.collect(request)
    finally:
        pair.stop()
    assert ready
    assert not any(ready)
