"""How much one forward takes: prompts do not keep everybody else waiting."""

import pytest

from specrouter_dist.config import EdgeKnobs, SamplingParams
from specrouter_dist.engine.toy import ToyEngine
from specrouter_dist.routing.observations import Observations
from specrouter_dist.routing.traffic import GREEDY
from specrouter_dist.speculation.ending import StopIds
from specrouter_dist.speculation.steps import MOST_BATCH_TOKENS
from specrouter_dist.worker.member import Opening
from specrouter_dist.worker.model_host import ModelHost
from specrouter_dist.worker.session import Session
from specrouter_dist.worker.threads import Threads

SAMPLING = SamplingParams(temperature=0.0, max_tokens=20)


def opened(host: ModelHost, request: int, prompt_tokens: int) -> Session:
    prompt = [1 + i % 20 for i in range(prompt_tokens)]
    end = prompt_tokens + SAMPLING.max_tokens
    stage, slot = host.open(Opening(prompt, prompt_tokens, end, SAMPLING), StopIds(()))
    session = Session(request, host, stage, slot, SAMPLING, prompt_tokens, end, traffic=GREEDY)
    host.ready[session] = None
    return session


def turn(host: ModelHost) -> list[int]:
    """The requests that one forward takes."""
    batch = host.take_steps(0.0, Observations())
    fed = [len(step.tokens) for _, step in batch]
    assert sum(fed[:-1]) < MOST_BATCH_TOKENS
    host.forward(batch, Observations())
    return [session.id for session, _ in batch]


@pytest.fixture
def host() -> ModelHost:
    return ModelHost("target", ToyEngine(model_seed=0, max_sessions=64), is_target=True)


def test_those_that_find_no_room_are_the_first_of_the_next_batch(host: ModelHost) -> None:
    per_batch = MOST_BATCH_TOKENS // 128
    count = 2 * per_batch + 1
    for request in range(count):
        opened(host, request, prompt_tokens=4 * 128)
    taken = [request for _ in range(4) for request in turn(host)]
    assert taken == [i % count for i in range(4 * per_batch)]


def test_everybody_is_in_one_batch_where_that_is_small(host: ModelHost) -> None:
    for request in range(40):
        opened(host, request, prompt_tokens=8)
    assert turn(host) == turn(host) == list(range(40))


class Counting(ToyEngine):
    """Knows how many threads its forwards had."""

    def __init__(self) -> None:
        super().__init__(model_seed=0)
        self.numbers: list[int] = []

    def set_threads(self, num_threads: int) -> None:
        self.numbers.append(num_threads)


def test_a_forward_shares_the_cores_with_a_drafter_that_drafts_ahead_and_with_nobody_else() -> None:
    engine = Counting()
    host = ModelHost("target", engine, is_target=True)
    host.threads = Threads(own=1, shared=(3,), first=3)
    session = opened(host, 1, prompt_tokens=4)
    for ahead, num_threads in ((0, 3), (4, 1), (0, 3)):
        session.wanted, session.num_attached = ("small",), 1
        session.edges = (EdgeKnobs(window=4 + ahead, burst=4, patience=4),)
        turn(host)
        assert engine.numbers.pop() == num_threads
    opened(host, 2, prompt_tokens=4)
    session.edges = (EdgeKnobs(window=8, burst=4, patience=4),)
    turn(host)
    assert engine.numbers.pop() == 3, "nobody drafts ahead for one of several"
