"""What an engine thread has measured, asked for from another thread."""

from threading import Event, Timer
from time import monotonic

import pytest

from specrouter_dist.routing.observations import Observations, WaitKey
from specrouter_dist.worker import asking
from specrouter_dist.worker.asking import Asking, Measured
from specrouter_dist.worker.posts import Call
from specrouter_dist.worker.status import Status


class Engine:
    """A worker whose engine thread answers when the test says so."""

    def __init__(self) -> None:
        self.hub = self
        self.is_busy = False
        self.posts: list[Call] = []
        self.status = Status()
        self.is_urgent = Event()
        self._observations = Observations()

    def post(self, call: Call) -> None:
        self.posts.append(call)
        if not self.is_busy:
            call.function()

    def measure(self, wait_us: float) -> None:
        self._observations.add_wait(WaitKey("draft", "target", 4), wait_us)

    def take_observations(self) -> Observations:
        taken, self._observations = self._observations, Observations()
        self.is_urgent.clear()
        return taken


def waits_us(measured: Measured | None) -> list[float]:
    assert measured is not None
    return [times.total_us for times in measured.observations.waits.values()]


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Engine:
    monkeypatch.setattr(asking, "_ANSWER_S", 0.0)
    return Engine()


def test_an_answer_tells_what_was_measured_until_now(engine: Engine) -> None:
    asked = Asking(engine)  # type: ignore[arg-type]
    for wait_us in (100.0, 2000.0):
        engine.measure(wait_us)
        assert waits_us(asked.take()) == [wait_us]


def test_what_a_busy_engine_has_not_answered_comes_later_and_once(engine: Engine) -> None:
    asked = Asking(engine)  # type: ignore[arg-type]
    engine.measure(100.0)
    engine.is_busy = True
    assert asked.take() is None
    assert asked.take() is None
    (call,) = engine.posts
    call.function()
    assert waits_us(asked.take()) == [100.0]
    engine.is_busy = False
    assert waits_us(asked.take()) == []


_LONG_S = 60.0


def test_what_is_urgent_is_not_waited_for(engine: Engine) -> None:
    asked = Asking(engine)  # type: ignore[arg-type]
    engine.measure(100.0)
    Timer(0.05, engine.is_urgent.set).start()
    began_s = monotonic()
    assert waits_us(asked.take(_LONG_S)) == [100.0]
    assert monotonic() - began_s < _LONG_S / 2


def test_an_answer_that_is_late_is_taken_when_it_comes(engine: Engine) -> None:
    """The engine thread clears the event when it answers: nobody would wake up by it."""
    asked = Asking(engine)  # type: ignore[arg-type]
    engine.measure(100.0)
    engine.is_busy = True
    engine.is_urgent.set()
    assert asked.take(_LONG_S) is None
    (call,) = engine.posts
    Timer(0.05, call.function).start()
    began_s = monotonic()
    assert waits_us(asked.take(_LONG_S)) == [100.0]
    assert monotonic() - began_s < _LONG_S / 2
    assert not engine.is_urgent.is_set()
