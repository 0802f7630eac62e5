"""Recording where a worker's time goes, from outside.

While a worker is traced some methods of its parts are shadowed by timed ones; when the trace has
been taken they are gone. So a worker that is not traced pays nothing: it has no branch, no counter
and no other code than without this module.
"""

import queue
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple, ParamSpec, TypeVar

from specrouter_dist.errors import UnavailableError
from specrouter_dist.links.address import Event, Peer, Received
from specrouter_dist.links.control import Attach, WireMessage
from specrouter_dist.speculation.messages import Proposals, Truth
from specrouter_dist.tracing.records import Frame, Kind, MessageKey, SpanName, WorkerTrace
from specrouter_dist.worker.posts import Call
from specrouter_dist.worker.worker import Worker

MAX_SPANS = 1 << 20
"""24 bytes each. A worker that is traced for longer, or was forgotten, records no more."""
_ANSWER_S = 10.0

P = ParamSpec("P")
R = TypeVar("R")


class Tracing:
    """Switches the recording of one worker on and off, from any thread."""

    def __init__(self, worker: Worker, *, max_spans: int = MAX_SPANS) -> None:
        self._worker = worker
        self._max_spans = max_spans
        self._recorder: _Recorder | None = None

    def start(self) -> None:
        """Records from now on. What was recorded and not taken is forgotten.

        Raises:
            UnavailableError: the engine thread does not answer.
        """
        self._run_between_turns(self._start)

    def take(self) -> WorkerTrace:
        """All that was recorded, and records no more. Empty where nothing was being recorded: the
        worker's process is a new one, or somebody else has taken it.

        Raises:
            UnavailableError: the engine thread does not answer.
        """
        return self._run_between_turns(self._take)

    def _run_between_turns(self, function: Callable[[], R]) -> R:
        name = self._worker.hub.address.worker
        if self._worker.error is not None:
            raise UnavailableError(f"worker {name} has failed: {self._worker.error!r}")
        answers: queue.SimpleQueue[R] = queue.SimpleQueue()
        self._worker.hub.post(Call(lambda: answers.put(function())))
        try:
            return answers.get(timeout=_ANSWER_S)
        except queue.Empty:
            raise UnavailableError(f"worker {name} does not answer in {_ANSWER_S:.0f} s") from None

    def _start(self) -> None:
        if self._recorder is not None:
            self._recorder.stop()
        self._recorder = _Recorder(self._max_spans)
        self._recorder.start(self._worker)

    def _take(self) -> WorkerTrace:
        recorder, self._recorder = self._recorder or _Recorder(0), None
        recorder.stop()
        address = self._worker.hub.address
        return WorkerTrace(
            worker=address.worker,
            node=address.node,
            wall_ns=time.time_ns() - time.perf_counter_ns(),
            names=tuple(recorder.names),
            spans=recorder.spans,
            frames=tuple(recorder.frames()),
            is_whole=recorder.is_whole,
        )


class _Timed(NamedTuple):
    """A method whose calls are spans."""

    owner: object
    method: str
    name: SpanName


def _timed_methods(worker: Worker) -> Iterator[_Timed]:
    """Together they are all that the engine thread does, but for its loop itself."""
    yield _Timed(worker, "_idle_s", SpanName(Kind.PYTHON, "look at deadlines"))
    yield _Timed(worker.hub, "receive", SpanName(Kind.SERIALISATION, "read"))
    yield _Timed(worker.hub._selector, "select", SpanName(Kind.WAITING, "wait"))
    yield _Timed(worker._inbox, "on_event", SpanName(Kind.PYTHON, "take mail"))
    yield _Timed(worker, "_settle", SpanName(Kind.PYTHON, "say"))
    yield _Timed(worker.hub, "send", SpanName(Kind.SERIALISATION, "send"))
    yield _Timed(worker, "_advance", SpanName(Kind.PYTHON, "turn"))
    yield _Timed(worker._readers, "advance", SpanName(Kind.PYTHON, "read a finished text"))
    samplers: set[int] = set()
    for model in worker._models:
        yield _Timed(model, "prepare", SpanName(Kind.PYTHON, "prepare", model.name))
        yield _Timed(model.engine, "extend", SpanName(Kind.FORWARD, "forward", model.name))
        # A toy has none, adapters draw with their base's.
        sampler = getattr(model.engine, "_sampler", None)
        if sampler is not None and id(sampler) not in samplers:
            samplers.add(id(sampler))
            yield _Timed(sampler, "draw", SpanName(Kind.SAMPLING, "sample", model.name))


class _Recorder:
    """What is recorded of one worker; on its engine thread only."""

    def __init__(self, max_spans: int) -> None:
        self.names: list[SpanName] = []
        self.spans = array("q")
        self.is_whole = max_spans > 0
        self._max_numbers = 3 * max_spans
        self._frames: list[tuple[Peer, bool, int, Sequence[WireMessage]]] = []
        self._undo: list[Callable[[], None]] = []

    def start(self, worker: Worker) -> None:
        """Shadows the methods."""
        hub = worker.hub
        # Within the spans, so that a frame's way begins and ends in one.
        self._shadow(hub, "send", self._noting_sent(hub.send))
        self._shadow(hub, "receive", self._noting_received(hub.receive))
        for owner, method, name in _timed_methods(worker):
            self._shadow(owner, method, self._timed(name, getattr(owner, method)))

    def stop(self) -> None:
        """All methods are what they were."""
        while self._undo:
            self._undo.pop()()

    def frames(self) -> Iterator[Frame]:
        """The frames with messages between stages."""
        for peer, is_sent, at_ns, messages in self._frames:
            keys = tuple(key for message in messages if (key := _key_of(message)))
            if keys:
                yield Frame(peer.worker, is_sent, at_ns, keys)

    def _shadow(self, owner: object, method: str, function: Callable[..., object]) -> None:
        before = vars(owner).get(method)
        undo = (
            partial(setattr, owner, method, before) if before else partial(delattr, owner, method)
        )
        self._undo.append(undo)
        setattr(owner, method, function)

    def _timed(self, name: SpanName, function: Callable[P, R]) -> Callable[P, R]:
        index = len(self.names)
        self.names.append(name)

        def timed(*args: P.args, **kwargs: P.kwargs) -> R:
            began_ns = time.perf_counter_ns()
            try:
                return function(*args, **kwargs)
            finally:
                self.spans.extend((index, began_ns, time.perf_counter_ns()))
                if len(self.spans) >= self._max_numbers and self._undo:
                    self.is_whole = False
                    self.stop()

        return timed

    def _noting_sent(
        self, send: Callable[[Peer, Sequence[WireMessage]], None]
    ) -> Callable[[Peer, Sequence[WireMessage]], None]:
        def noting(peer: Peer, messages: Sequence[WireMessage]) -> None:
            self._frames.append((peer, True, time.perf_counter_ns(), messages))
            send(peer, messages)

        return noting

    def _noting_received(
        self, receive: Callable[[float | None], list[Event]]
    ) -> Callable[[float | None], list[Event]]:
        def noting(timeout_s: float | None) -> list[Event]:
            events = receive(timeout_s)
            at_ns = time.perf_counter_ns()
            for event in events:
                if isinstance(event, Received):
                    self._frames.append((event.peer, False, at_ns, event.messages))
            return events

        return noting


def _key_of(message: WireMessage) -> MessageKey | None:
    """What tells a message between stages from all others; None: it is between others."""
    match message:
        case Truth(edge=edge, version=version):
            return ("truth", *edge, version)
        case Proposals(edge=edge, version_seen=version, start=start, tokens=tokens):
            return ("proposals", *edge, version, start, len(tokens))
        case Attach(edge=edge, version=version):
            return ("attach", *edge, version)
        case _:
            return None
