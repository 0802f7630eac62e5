"""Chains of toy members: in one worker, over several, with losses."""

import queue
import time
from collections.abc import Callable, Sequence

import pytest

from specrouter_dist.config import SamplingParams
from specrouter_dist.engine.interface import Extension, Picks, TokenLogprobs
from specrouter_dist.links.control import Failed, Output
from specrouter_dist.routing.observations import Observations, WaitKey
from specrouter_dist.routing.plans import LOADS, Ladder, PlanTable, Rung
from specrouter_dist.routing.replay import own_text_names
from specrouter_dist.routing.traffic import ROOTS
from specrouter_dist.worker.parking import LEASE_S
from specrouter_dist.worker.posts import Call, SetPlans
from specrouter_dist.worker.session import OWN_TEXT
from tests.integration.worker.toys import WAIT_S, Toys, plan

PROMPT = [1, 2, 3, 4, 5]
CHAINS = [
    ("small", "target"),
    ("medium", "target"),
    ("small", "medium", "target"),
    ("lookup", "target"),
    ("lookup", "small", "medium", "target"),
]


def sampling(temperature: float = 0.0, max_tokens: int = 60, **fields: object) -> SamplingParams:
    return SamplingParams.model_validate(
        {"temperature": temperature, "max_tokens": max_tokens, "seed": 7, **fields}
    )


def alone(params: SamplingParams, prompt: list[int] = PROMPT, **options: int) -> list[int]:
    toys = Toys(["target"], **options)
    try:
        return toys.collect(toys.submit(prompt, plan("target"), params))[0]
    finally:
        toys.stop()


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < end, "it did not come true"
        time.sleep(0.005)


@pytest.fixture(params=["one worker", "three workers"])
def toys(request: pytest.FixtureRequest):  # type: ignore[no-untyped-def]
    members = ["small", "medium", "target"]
    groups = [members] if request.param == "one worker" else [[name] for name in members]
    toys = Toys(*groups)
    yield toys
    toys.stop()


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_every_chain_prints_what_the_target_alone_prints(toys: Toys, temperature: float) -> None:
    params = sampling(temperature)
    wanted = alone(params)
    assert len(wanted) == params.max_tokens
    for chain in CHAINS:
        tokens, last = toys.collect(toys.submit(PROMPT, plan(*chain), params))
        assert tokens == wanted, chain
        assert last.finish_reason == "length"


@pytest.mark.parametrize("chain", [("target",), ("small", "medium", "target")])
def test_a_prompts_log_probabilities_come_piece_by_piece(
    toys: Toys, chain: tuple[str, ...]
) -> None:
    prompt = [1 + i % 9 for i in range(300)]
    request = toys.submit(prompt, plan(*chain), sampling(max_tokens=5, prompt_logprobs=2))
    said: list[tuple[TokenLogprobs, ...]] = []
    num_tokens = 0
    while num_tokens < 5:
        message = toys.inboxes[request].get(timeout=WAIT_S)
        assert isinstance(message, Output) and message.start == num_tokens
        num_tokens += len(message.tokens)
        said.append(message.prompt_logprobs)
    # A stage feeds 128 tokens at once; what the last piece says comes with the first token.
    assert [len(rows) for rows in said if rows] == [128, 128, 43]
    rows = [row for part in said for row in part]
    assert [row.token for row in rows] == prompt[1:]
    law = toys.engines["target"].law(prompt[1], prompt[2])
    assert rows[2].top[0][0] == law.argmax()
    plain, _ = toys.collect(toys.submit(prompt, plan(*chain), sampling(max_tokens=5)))
    assert len(plain) == 5


def test_drafters_are_used_and_counted_at_every_level(toys: Toys) -> None:
    request = toys.submit(PROMPT, plan("small", "medium", "target"), sampling(max_tokens=200))
    _, last = toys.collect(request)
    assert last.stats is not None
    levels = {
        (draft, verifier): accepted for draft, verifier, _, accepted, _, _ in last.stats["levels"]
    }  # type: ignore[attr-defined]
    assert set(levels) == {("small", "medium"), ("medium", "target")}
    assert all(accepted > 0 for accepted in levels.values())
    assert last.stats["num_rounds"] < 120  # type: ignore[operator]


def observed(toys: Toys, name: str) -> Observations:
    """What the member's worker has measured since the last call."""
    taken: queue.SimpleQueue[Observations] = queue.SimpleQueue()
    worker = toys.workers[name]
    worker.hub.post(Call(lambda: taken.put(worker.take_observations())))
    return taken.get(timeout=10)


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_every_verifier_may_continue_its_own_text(toys: Toys, temperature: float) -> None:
    params = sampling(temperature, max_tokens=200)
    chain = plan("small", "medium", "target", match_tokens=1)
    tokens, last = toys.collect(toys.submit(PROMPT, chain, params))
    assert tokens == alone(params)
    pairs = [key for name in ("medium", "target") for key in observed(toys, name).pairs]
    assert {(key.draft, key.verifier) for key in pairs} == {
        (name, verifier)
        for draft, verifier in (("small", "medium"), ("medium", "target"))
        for name in (draft, *own_text_names(draft, 1))
    }
    levels = {level[:2] for level in last.stats["levels"]}  # type: ignore[index, union-attr]
    assert levels >= {(OWN_TEXT, "medium"), (OWN_TEXT, "target")}


def test_it_is_urgent_that_a_member_has_become_slower(
    toys: Toys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For the member itself, and for whoever waits for it; what was timed of it before, in whatever
    kind of steps, is not told any more."""
    chain = plan("small", "target")
    toys.collect(toys.submit(PROMPT, chain, sampling(max_tokens=200)))
    workers = {toys.workers[name]: name for name in chain.chain}
    for name in workers.values():
        observed(toys, name)
    assert not any(worker.is_urgent.is_set() for worker in workers)
    toys.collect(toys.submit(PROMPT, chain, sampling(max_tokens=50)))
    extend = toys.engines["small"].extend

    def slowly(batch: Sequence[Extension]) -> list[Picks]:
        time.sleep(0.1)
        return extend(batch)

    monkeypatch.setattr(toys.engines["small"], "extend", slowly)
    request = toys.submit(PROMPT, chain, sampling(max_tokens=1000))
    for worker, name in workers.items():
        assert worker.is_urgent.wait(WAIT_S)
        report = observed(toys, name)
        assert report.is_urgent
        if name == "small":
            assert all(times.total_us / times.count > 9e4 for times in report.forwards.values())
        assert not worker.is_urgent.is_set()
    toys.cancel(request)


def test_waits_for_blocks_are_observed(toys: Toys) -> None:
    request = toys.submit(PROMPT, plan("small", "target"), sampling(max_tokens=200))
    toys.collect(request)
    found = observed(toys, "target").waits
    assert found.keys() == {WaitKey("small", "target", 4)}
    assert all(times.total_us > 0 for times in found.values())


def test_concurrent_requests_do_not_mix(toys: Toys) -> None:
    prompts = [[i + 1, i + 2] for i in range(8)]
    params = sampling(0.8)
    requests = [
        toys.submit(p, plan(*CHAINS[i % len(CHAINS)]), params) for i, p in enumerate(prompts)
    ]
    outputs = [toys.collect(request)[0] for request in requests]
    assert outputs == [alone(params, prompt) for prompt in prompts]


def test_a_stop_id_ends_the_text_inside_a_block(toys: Toys) -> None:
    text = alone(sampling(0.8))
    stop = text[20]
    tokens, last = toys.collect(
        toys.submit(
            PROMPT, plan("small", "medium", "target"), sampling(0.8, stop_token_ids=(stop,))
        )
    )
    assert tokens == text[: text.index(stop) + 1]
    assert last.finish_reason == "stop"


def test_nothing_is_left_when_all_requests_are_done(toys: Toys) -> None:
    for chain in CHAINS:
        toys.collect(toys.submit(PROMPT, plan(*chain), sampling()))
    wait_until(lambda: all(engine.num_open == 0 for engine in toys.engines.values()))
    wait_until(lambda: all(worker.num_sessions == 0 for worker in toys.workers.values()))


def test_cancelling_frees_every_level(toys: Toys) -> None:
    endless = sampling(max_tokens=4000)
    request = toys.submit(PROMPT, plan("small", "medium", "target"), endless)
    wait_until(lambda: toys.engines["small"].num_open == 1)
    toys.cancel(request)
    assert toys.collect(request)[1].finish_reason == "cancelled"
    wait_until(lambda: all(engine.num_open == 0 for engine in toys.engines.values()))


def test_a_request_waits_for_room_and_a_drafter_without_room_is_left_out() -> None:
    toys = Toys(["small"], ["target"], max_sessions=1)
    try:
        requests = [toys.submit(PROMPT, plan("small", "target"), sampling()) for _ in range(3)]
        wanted = alone(sampling())
        assert [toys.collect(request)[0] for request in requests] == [wanted] * 3
    finally:
        toys.stop()


def test_a_request_that_is_cancelled_while_it_waits_is_answered() -> None:
    toys = Toys(["target"], max_sessions=1)
    try:
        endless = toys.submit(PROMPT, plan("target"), sampling(max_tokens=4000))
        waiting, last = (toys.submit(PROMPT, plan("target"), sampling()) for _ in range(2))
        toys.cancel(waiting)
        message = toys.inboxes[waiting].get(timeout=WAIT_S)
        assert isinstance(message, Failed)
        assert message.kind == "UnavailableError"
        toys.cancel(waiting)
        toys.cancel(endless)
        assert toys.collect(last)[0] == alone(sampling())
        assert toys.inboxes[waiting].empty()
    finally:
        toys.stop()


def test_a_lost_drafter_is_done_without_and_taken_back() -> None:
    toys = Toys(["small"], ["medium"], ["target"], context_tokens=1 << 14)
    # So long that it outlives them all also on a busy machine.
    params = sampling(0.8, max_tokens=12_000)
    try:
        wanted = alone(params, context_tokens=1 << 14)
        request = toys.submit(PROMPT, plan("small", "medium", "target"), params)
        for name in ("medium", "small", "medium"):
            wait_until(lambda name=name: toys.engines[name].num_open == 1)  # type: ignore[misc]
            toys.workers[name].stop()
            toys.start([name])
        wait_until(lambda: toys.engines["medium"].num_open == 1)
        tokens, last = toys.collect(request)
        assert tokens == wanted
        assert last.stats is not None
        assert last.stats["attached"] == ("small", "medium", "target")
    finally:
        toys.stop()


def test_a_request_that_the_engine_refuses_fails_alone(toys: Toys) -> None:
    refused = toys.submit(PROMPT, plan("small", "target"), sampling(top_p=0.5))
    message = toys.inboxes[refused].get(timeout=WAIT_S)
    assert isinstance(message, Failed)
    assert message.kind == "EngineError"
    assert toys.collect(toys.submit(PROMPT, plan("target"), sampling()))[0] == alone(sampling())


def test_replanning_a_running_request_changes_nothing_but_the_speed() -> None:
    toys = Toys(["small"], ["medium"], ["target"])
    params = sampling(0.8, max_tokens=3000)
    try:
        wanted = alone(params)
        request = toys.submit(PROMPT, None, params)
        for number, chain in enumerate([*CHAINS, ("target",), *CHAINS], start=1):
            follow(toys, *chain, number=number)
            time.sleep(0.02)
        assert toys.collect(request)[0] == wanted
    finally:
        toys.stop()


def follow(toys: Toys, *chain: str, number: int) -> None:
    """The router's new choice."""
    table = PlanTable.only(plan(*chain, number=number))
    toys.workers["target"].hub.post(SetPlans(table))


def test_a_request_whose_drafts_fail_falls_back_by_itself() -> None:
    toys = Toys(["small"], ["target"])
    chain, alone_plan = plan("small", "target", number=1), plan("target", number=1)
    try:
        # As if the pair agreed nearly always: this request's 0.6 is far below it.
        ladder = Ladder((Rung(1.0, chain, 0.99), Rung(0.6, alone_plan)))
        ladders = dict.fromkeys(ROOTS, (ladder,) * len(LOADS))
        toys.workers["target"].hub.post(SetPlans(PlanTable(ladders)))
        params = sampling(0.8, max_tokens=600)
        tokens, last = toys.collect(toys.submit(PROMPT, None, params))
        assert tokens == alone(params)
        assert last.stats is not None
        assert last.stats["chain"] == ("target",)
    finally:
        toys.stop()


def test_a_request_replanned_to_the_target_alone_still_says_who_drafted() -> None:
    toys = Toys(["small"], ["target"])
    try:
        follow(toys, "small", "target", number=1)
        request = toys.submit(PROMPT, None, sampling(0.8, max_tokens=3000))
        wait_until(lambda: toys.inboxes[request].qsize() > 20)
        follow(toys, "target", number=2)
        _, last = toys.collect(request)
        assert last.stats is not None
        assert last.stats["chain"] == ("target",)
        assert [level[:2] for level in last.stats["levels"]] == [("small", "target")]  # type: ignore[attr-defined]
    finally:
        toys.stop()


def test_cancelling_frees_the_levels_of_earlier_plans_too(toys: Toys) -> None:
    follow(toys, "small", "medium", "target", number=1)
    request = toys.submit(PROMPT, None, sampling(0.8, max_tokens=4000))
    wait_until(lambda: toys.inboxes[request].qsize() > 20)
    follow(toys, "lookup", "target", number=2)
    wait_until(lambda: toys.inboxes[request].qsize() > 40)
    assert toys.engines["small"].num_open == 1, "parked, not closed"
    cancelled = time.monotonic()
    toys.cancel(request)
    wait_until(lambda: all(worker.num_sessions == 0 for worker in toys.workers.values()))
    assert time.monotonic() - cancelled < LEASE_S / 2
