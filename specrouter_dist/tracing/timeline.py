"""The records of several workers on one clock, and the frames that went between them."""

from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from specrouter_dist.tracing.records import Frame, Kind, MessageKey, Span, WorkerTrace


class Flow(NamedTuple):
    """A frame's way from one worker to another."""

    sender: str
    receiver: str
    kind: str
    """Of the first of its messages that arrived."""
    sent_ns: int
    received_ns: int


@dataclass(frozen=True, slots=True)
class Track:
    """One worker's spans on the common clock."""

    worker: str
    spans: tuple[Span, ...]
    """In the order in which they began, parents before their children."""
    is_whole: bool

    @property
    def wall_ns(self) -> int:
        """From the first event to the last."""
        if not self.spans:
            return 0
        return max(span.ended_ns for span in self.spans) - self.spans[0].began_ns

    @property
    def waits(self) -> list[tuple[int, int]]:
        """When the thread waited: beginnings and ends, in order."""
        waiting = (span for span in self.spans if span.name.kind is Kind.WAITING)
        return [(span.began_ns, span.ended_ns) for span in waiting]


@dataclass(frozen=True, slots=True)
class Timeline:
    """All that was recorded."""

    tracks: tuple[Track, ...]
    flows: tuple[Flow, ...]
    """In the order in which they were sent."""

    @property
    def began_ns(self) -> int:
        """The first event's time."""
        return min((track.spans[0].began_ns for track in self.tracks if track.spans), default=0)


def timeline_of(traces: Sequence[WorkerTrace]) -> Timeline:
    """Puts all on the first worker's clock.

    Processes of one node share a clock. That of another node is shifted by how far the two nodes'
    times of day say that it is off: hops between nodes are as good as these agree.
    """
    wall_ns: dict[str, int] = {}
    for trace in traces:
        # One reading for each node, lest the readings' jitter part its workers.
        wall_ns.setdefault(trace.node, trace.wall_ns)
    shifts = [wall_ns[trace.node] - wall_ns[traces[0].node] for trace in traces]
    pairs = list(zip(traces, shifts, strict=True))
    return Timeline(
        tuple(_track(trace, shift) for trace, shift in pairs),
        tuple(sorted(_flows(pairs), key=lambda flow: flow.sent_ns)),
    )


def _track(trace: WorkerTrace, shift_ns: int) -> Track:
    spans = [
        Span(span.name, span.began_ns + shift_ns, span.ended_ns + shift_ns)
        for span in trace.iter_spans()
    ]
    # Of two that are the same stretch the one that was recorded later is the parent.
    spans.reverse()
    spans.sort(key=lambda span: (span.began_ns, -span.ended_ns))
    return Track(trace.worker, tuple(spans), trace.is_whole)


def _flows(pairs: Sequence[tuple[WorkerTrace, int]]) -> Iterator[Flow]:
    """A frame that was sent arrives where one of its messages does. A message that a newer one
    replaced before it went does not arrive, and frames may go as one."""
    received: dict[tuple[str, str, MessageKey], deque[int]] = defaultdict(deque)
    for trace, shift in pairs:
        for frame in trace.frames:
            if not frame.is_sent:
                for key in frame.keys:
                    received[frame.peer, trace.worker, key].append(frame.at_ns + shift)
    for trace, shift in pairs:
        for frame in trace.frames:
            if frame.is_sent and (arrival := _arrival(trace.worker, frame, received)):
                kind, received_ns = arrival
                yield Flow(trace.worker, frame.peer, kind, frame.at_ns + shift, received_ns)


def _arrival(
    sender: str, frame: Frame, received: dict[tuple[str, str, MessageKey], deque[int]]
) -> tuple[str, int] | None:
    """The kind of the frame's first message that arrived, and when it did."""
    found = None
    for key in frame.keys:
        times_ns = received.get((sender, frame.peer, key))
        if times_ns:
            received_ns = times_ns.popleft()
            found = found or (str(key[0]), received_ns)
    return found
