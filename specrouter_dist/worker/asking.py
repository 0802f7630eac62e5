"""Asking an engine thread, from another one, what it has measured."""

import queue
from typing import NamedTuple

from specrouter_dist.routing.observations import Observations
from specrouter_dist.worker.posts import Call
from specrouter_dist.worker.status import Status
from specrouter_dist.worker.worker import Worker

_ANSWER_S = 0.1
"""How long an answer is waited for: what it tells should be of now, not of the last time."""


class Measured(NamedTuple):
    """How a worker is, and what it has measured since it was last asked."""

    status: Status
    observations: Observations


class Asking:
    """Of one worker, by one thread."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._answers: queue.SimpleQueue[Measured] = queue.SimpleQueue()
        self._is_asked = False
        """And has not answered yet."""

    def take(self, after_s: float = 0.0) -> Measured | None:
        """After so long, or earlier if it is urgent. None: the engine thread is in a long forward,
        or dead. The answer to this is what a later call takes, as soon as it comes."""
        within_s = _ANSWER_S
        if self._is_asked:
            within_s += after_s
        else:
            self._worker.is_urgent.wait(after_s)
            self._worker.hub.post(Call(self._answer))
        try:
            measured = self._answers.get(timeout=within_s)
        except queue.Empty:
            self._is_asked = True
            return None
        self._is_asked = False
        return measured

    def _answer(self) -> None:
        """On the engine thread."""
        self._answers.put(Measured(self._worker.status, self._worker.take_observations()))
