"""Members read finished texts in spare time, and say what they would have drawn."""

import time
from array import array

import pytest

from specrouter_dist.config import SamplingParams
from specrouter_dist.engine.interface import Extension
from specrouter_dist.links.control import Settled
from specrouter_dist.routing.observations import Observations, Reading
from specrouter_dist.routing.traffic import Traffic
from specrouter_dist.worker.member import ModelHost
from specrouter_dist.worker.posts import Call
from specrouter_dist.worker.reading import MAX_TOKENS, Readers
from tests.integration.worker.toys import Toys, engine, plan

PROMPT = [5, 6, 7, 8]


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def text(num_tokens: int, temperature: float = 0.8, request: int = 1) -> Settled:
    params = SamplingParams(temperature=temperature, seed=3, max_tokens=num_tokens)
    tokens = array("I", [*PROMPT, *(k * 7 % 13 for k in range(num_tokens))])
    return Settled(request, len(PROMPT), tokens, params, "")


def expected(name: str, of: Settled) -> list[int]:
    """One forward over the whole text."""
    toy = engine(name)
    slot = toy.open(of.sampling, of.prompt_tokens, len(of.tokens))
    num_picks = len(of.tokens) - of.prompt_tokens
    (picks,) = toy.extend([Extension(slot, 0, of.tokens[:-1], num_picks)])
    return list(picks.tokens)


@pytest.mark.parametrize("num_tokens", [1, 59, 60, 61, 200])
def test_a_reading_is_a_pick_per_position_of_the_output(num_tokens: int) -> None:
    host = ModelHost("small", engine("small"), is_target=False)
    readers, seen = Readers([host], Clock()), Observations()
    readers.add(text(num_tokens))
    while readers.advance(seen):
        pass
    (reading,) = seen.readings
    assert list(reading.picks) == expected("small", text(num_tokens))
    assert (reading.member, reading.traffic) == ("small", Traffic("warm"))
    assert len(reading.picks) == num_tokens


def test_reading_takes_a_hundredth_of_the_time() -> None:
    clock = Clock()

    class Slow(ModelHost):
        pass

    host = Slow("small", engine("small"), is_target=False)
    extend = host.engine.extend

    def slow(batch):  # type: ignore[no-untyped-def]
        clock.now += 0.1
        return extend(batch)

    host.engine.extend = slow  # type: ignore[method-assign]
    readers, seen = Readers([host], clock), Observations()
    busy_s, end_s = 0.0, 1000.0
    request = 0
    while clock.now < end_s:
        readers.add(text(60, request=request))
        request += 1
        began_s = clock.now
        if readers.advance(seen):
            busy_s += clock.now - began_s
        else:
            wait_s = readers.idle_s()
            assert wait_s is not None and wait_s > 0
            clock.now += wait_s
    assert 0.005 < busy_s / end_s < 0.0115
    assert seen.readings


def test_no_more_texts_wait_than_can_be_read() -> None:
    host = ModelHost("small", engine("small"), is_target=False)
    readers, seen = Readers([host], Clock()), Observations()
    for request in range(100):
        readers.add(text(5, request=request))
    while readers.advance(seen):
        pass
    assert len(seen.readings) < 10


def test_a_member_without_room_reads_nothing_and_holds_nothing() -> None:
    toy = engine("small", max_sessions=1)
    held = toy.open(SamplingParams(), 1, 4)
    readers, seen = Readers([ModelHost("small", toy, is_target=False)], Clock()), Observations()
    readers.add(text(5))
    assert not readers.advance(seen)
    assert seen.readings == [] and readers.idle_s() is None
    toy.close(held)


def readings_of(toys: Toys) -> list[Reading]:
    found: list[Reading] = []
    for worker in set(toys.workers.values()):
        done: list[Observations] = []
        worker.hub.post(Call(lambda w=worker, to=done: to.append(w.take_observations())))  # type: ignore[misc]
        while not done:
            time.sleep(0.005)
        found += done[0].readings
    return found


@pytest.mark.parametrize(
    "groups", [(["small"], ["medium"], ["target"]), (["target", "small", "medium"],)]
)
def test_members_that_did_not_draft_say_what_they_would_have(groups: tuple[list[str], ...]) -> None:
    toys = Toys(*groups)
    try:
        params = SamplingParams(temperature=0.8, seed=9, max_tokens=80)
        tokens, _ = toys.collect(toys.submit(PROMPT, plan("target"), params))
        found: dict[str, Reading] = {}
        until = time.monotonic() + 10
        while len(found) < 3 and time.monotonic() < until:
            found |= {reading.member: reading for reading in readings_of(toys)}
            time.sleep(0.01)
        assert sorted(found) == ["medium", "small", "target"]
        assert list(found["target"].picks) == tokens
        assert list(found["target"].prompt) == PROMPT
        whole = Settled(1, len(PROMPT), array("I", [*PROMPT, *tokens]), params, "")
        for name in ("small", "medium"):
            assert list(found[name].picks) == expected(name, whole)
    finally:
        toys.stop()


def test_a_text_too_long_is_not_read() -> None:
    toys = Toys(["small"], ["target"])
    try:
        params = SamplingParams(temperature=0.8, seed=9, max_tokens=MAX_TOKENS)
        toys.collect(toys.submit(PROMPT, plan("target"), params))
        assert readings_of(toys) == []
    finally:
        toys.stop()
