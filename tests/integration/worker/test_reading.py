"""Members read finished texts in spare time, and say what they would have drawn."""

import time
from array import array

import numpy as np
import pytest

from specrouter_dist.config import SamplingParams
from specrouter_dist.engine.interface import Extension
from specrouter_dist.links.control import Settled
from specrouter_dist.routing.observations import LawReading, Observations, Reading
from specrouter_dist.routing.similarity import MAX_ROWS, SparseRows, sampled_positions
from specrouter_dist.routing.traffic import Traffic
from specrouter_dist.worker.model_host import ModelHost
from specrouter_dist.worker.posts import Call
from specrouter_dist.worker.reading import MAX_TOKENS, Readers
from tests.integration.worker.toys import WAIT_S, Toys, engine, plan

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


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("num_tokens", [1, 5, 60, 61, 200])
def test_it_comes_with_laws_before_temperature_at_the_sampled_positions(
    num_tokens: int, temperature: float
) -> None:
    host = ModelHost("small", engine("small"), is_target=False)
    readers, seen = Readers([host], Clock()), Observations()
    of = text(num_tokens, temperature)
    readers.add(of)
    while readers.advance(seen):
        pass
    (laws,) = seen.laws
    positions = [len(PROMPT) + i for i in sampled_positions(num_tokens)]
    kind = Traffic("greedy" if temperature == 0.0 else "warm")
    assert (laws.request, laws.member, laws.traffic) == (1, "small", kind)
    assert laws.rows.is_plausible
    dense = np.stack([engine("small").law(*of.tokens[t - 2 : t]) for t in positions])
    powers = np.exp(dense)
    expected = SparseRows.of(powers / powers.sum(axis=1, keepdims=True))
    assert np.array_equal(laws.rows.ids, expected.ids)
    assert np.allclose(laws.rows.logprobs, expected.logprobs)


def test_the_target_reads_one_text_in_four_and_only_its_laws() -> None:
    hosts = [
        ModelHost(name, engine(name), is_target=name == "target") for name in ("target", "small")
    ]
    readers, seen = Readers(hosts, Clock()), Observations()
    for request in range(8):
        readers.add(text(20, request=request))
        while readers.advance(seen):
            pass
    assert [reading.member for reading in seen.readings] == ["small"] * 8
    assert {key.member for key in seen.forwards} == {"small"}
    read = [laws.request for laws in seen.laws if laws.member == "target"]
    assert read == [0, 4]
    assert [laws.request for laws in seen.laws if laws.member == "small"] == list(range(8))


def test_a_member_is_timed_at_the_end_of_what_it_has_read() -> None:
    readers, seen = (
        Readers([ModelHost("small", engine("small"), is_target=False)], Clock()),
        Observations(),
    )
    readers.add(text(500))
    while readers.advance(seen):
        pass
    assert {key.context_tokens for key in seen.forwards} == {512}


def test_what_the_target_reads_gives_way() -> None:
    toys = {name: engine(name) for name in ("small", "target")}
    hosts = [ModelHost(name, toy, is_target=name == "target") for name, toy in toys.items()]
    readers, seen = Readers(hosts, Clock()), Observations()
    assert not readers.give_way()
    readers.add(text(300))
    readers.advance(seen)
    assert toys["small"].num_open == 1
    assert not readers.give_way(), "of the others nobody's request wants room"
    while not toys["target"].num_open:
        readers.advance(seen)
    assert readers.give_way()
    assert toys["target"].num_open == 0
    assert not readers.advance(seen)
    assert [laws.member for laws in seen.laws] == ["small"]


def test_a_request_finds_room_although_the_target_is_reading() -> None:
    toys = Toys(["target"], max_sessions=1)
    try:
        params = SamplingParams(temperature=0.8, seed=9, max_tokens=80)
        for _ in range(8):
            expected, _ = toys.collect(toys.submit(PROMPT, None, params))
            assert len(expected) == 80
    finally:
        toys.stop()


def test_reading_takes_a_hundredth_of_the_time() -> None:
    clock = Clock()
    host = ModelHost("small", engine("small"), is_target=False)
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


def test_while_others_want_all_cpus_a_text_is_read_now_and_then() -> None:
    clock, are_taken = Clock(), True
    host = ModelHost("small", engine("small"), is_target=False)
    readers, seen = Readers([host], clock, lambda: are_taken), Observations()

    def run(seconds: float) -> int:
        """Returns how many texts were read."""
        before, end_s = len(seen.readings), clock.now + seconds
        while clock.now < end_s:
            readers.add(text(60))
            while readers.advance(seen):
                pass
            wait_s = readers.idle_s()
            assert wait_s is not None and wait_s > 0, "it does not spin"
            clock.now += wait_s
        return len(seen.readings) - before

    assert 3 <= run(12.5) <= 4
    are_taken = False
    readers.add(text(60))
    assert readers.advance(seen), "as soon as one is free"


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


def observed(toys: Toys) -> list[Observations]:
    found: list[Observations] = []
    for worker in set(toys.workers.values()):
        done: list[Observations] = []
        worker.hub.post(Call(lambda w=worker, to=done: to.append(w.take_observations())))  # type: ignore[misc]
        while not done:
            time.sleep(0.005)
        found += done
    return found


@pytest.mark.parametrize(
    "groups", [(["small"], ["medium"], ["target"]), (["target", "small", "medium"],)]
)
def test_members_that_did_not_draft_say_what_they_would_have(groups: tuple[list[str], ...]) -> None:
    toys = Toys(*groups)
    try:
        params = SamplingParams(temperature=0.8, seed=9, max_tokens=80)
        tokens, _ = toys.collect(toys.submit(PROMPT, None, params))
        found: dict[str, Reading] = {}
        laws: dict[str, LawReading] = {}
        until = time.monotonic() + 10
        while (len(found) < 3 or len(laws) < 3) and time.monotonic() < until:
            for seen in observed(toys):
                found |= {reading.member: reading for reading in seen.readings}
                laws |= {reading.member: reading for reading in seen.laws}
            time.sleep(0.01)
        assert sorted(found) == sorted(laws) == ["medium", "small", "target"]
        assert list(found["target"].picks) == tokens
        assert list(found["target"].prompt) == PROMPT
        whole = Settled(1, len(PROMPT), array("I", [*PROMPT, *tokens]), params, "")
        assert len({of.request for of in (*found.values(), *laws.values())}) == 1
        assert all(len(of.rows) == MAX_ROWS for of in laws.values())
        for name in ("small", "medium"):
            assert list(found[name].picks) == expected(name, whole)
    finally:
        toys.stop()


def test_a_text_that_wanted_no_drafter_is_not_read() -> None:
    toys = Toys(["small"], ["target"])
    try:
        params = SamplingParams(temperature=0.8, seed=9, max_tokens=80)
        toys.collect(toys.submit(PROMPT, plan("target"), params))
        toys.collect(toys.submit(PROMPT, None, params))
        readings: list[Reading] = []
        until = time.monotonic() + WAIT_S
        while {reading.member for reading in readings} != {"small", "target"}:
            assert time.monotonic() < until
            readings += [reading for seen in observed(toys) for reading in seen.readings]
        assert {reading.request for reading in readings} == {2}
        assert toys.engines["small"].num_open == 0
    finally:
        toys.stop()


def test_a_text_too_long_is_not_read() -> None:
    toys = Toys(["small"], ["target"])
    try:
        params = SamplingParams(temperature=0.8, seed=9, max_tokens=MAX_TOKENS)
        toys.collect(toys.submit(PROMPT, None, params))
        assert all(seen.readings == seen.laws == [] for seen in observed(toys))
    finally:
        toys.stop()
