"""Steps and waits share all the time of an engine thread that has something to do."""

import queue
from array import array

import pytest

from specrouter_dist.config import SamplingParams
from specrouter_dist.links.control import Failed, Output, Submit
from specrouter_dist.links.hub import Event, Hub
from specrouter_dist.routing.observations import Observations
from specrouter_dist.routing.plans import PlanTable
from specrouter_dist.speculation.messages import TOKEN_TYPECODE
from specrouter_dist.worker.ending import StopIds
from specrouter_dist.worker.model_host import ModelHost
from specrouter_dist.worker.posts import Call
from specrouter_dist.worker.threads import Threads
from specrouter_dist.worker.worker import Worker
from tests.integration.worker.toys import SECRET, WAIT_S, Toys, engine, plan

RECEIVING_S = 0.25
NUM_TOKENS = 20


def test_what_is_received_between_two_forwards_is_in_the_time_of_the_second() -> None:
    now_s = 0.0
    hub = Hub("target", 1, "here", SECRET)
    receive = hub.receive

    def receive_slowly(timeout_s: float | None) -> list[Event]:
        nonlocal now_s
        now_s += RECEIVING_S
        return receive(timeout_s)

    hub.receive = receive_slowly  # type: ignore[method-assign]
    done: queue.SimpleQueue[Output | Failed] = queue.SimpleQueue()
    worker = Worker(
        [ModelHost("target", engine("target"), is_target=True)],
        hub,
        PlanTable.only(plan("target")),
        lambda submit: StopIds(submit.sampling.stop_token_ids),
        done.put,
        clock=lambda: now_s,
    )
    worker.start()
    try:
        empty = array(TOKEN_TYPECODE)
        sampling = SamplingParams(temperature=0.0, max_tokens=NUM_TOKENS, seed=1, ignore_eos=True)
        prompt = array(TOKEN_TYPECODE, [1, 2, 3])
        worker.submit(Submit(1, prompt, sampling, plan("target"), empty))
        while True:
            message = done.get(timeout=WAIT_S)
            assert isinstance(message, Output)
            if message.finish_reason is not None:
                break
        taken: queue.SimpleQueue[Observations] = queue.SimpleQueue()
        hub.post(Call(lambda: taken.put(worker.take_observations())))
        times = taken.get(timeout=WAIT_S).forwards.values()
    finally:
        worker.stop()
    count, total_us = sum(t.count for t in times), sum(t.total_us for t in times)
    assert 2 < count <= NUM_TOKENS
    # The first forward follows on a wait, and a wait is nobody's step.
    assert total_us == (count - 1) * RECEIVING_S * 1e6


class Trying(Threads):
    """Every forward, or none, is a trial of a number of threads."""

    def __init__(self, is_trial: bool) -> None:
        super().__init__()
        self._is_trial = is_trial

    @property
    def was_trial(self) -> bool:
        return self._is_trial


@pytest.mark.parametrize("is_trial", [True, False])
def test_what_forwards_take_that_try_a_number_of_threads_is_not_told(is_trial: bool) -> None:
    toys = Toys(["target"])
    try:
        worker = toys.workers["target"]
        (host,) = worker._models
        host.threads = Trying(is_trial)
        sampling = SamplingParams(temperature=0.0, max_tokens=NUM_TOKENS, seed=1, ignore_eos=True)
        toys.collect(toys.submit([1, 2, 3], plan("target"), sampling))
        taken: queue.SimpleQueue[Observations] = queue.SimpleQueue()
        worker.hub.post(Call(lambda: taken.put(worker.take_observations())))
        assert bool(taken.get(timeout=WAIT_S).forwards) is not is_trial
    finally:
        toys.stop()
