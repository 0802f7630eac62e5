"""What each worker's time went to: the shares add up to its wall time."""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from specrouter_dist.tracing.records import Kind, Span
from specrouter_dist.tracing.timeline import Flow, Timeline, Track

_MODEL_KINDS = (Kind.FORWARD, Kind.SAMPLING)


@dataclass(frozen=True, slots=True)
class WorkerShares:
    """One worker's time, in nanoseconds."""

    worker: str
    wall_ns: int
    """From its first event to its last."""
    kinds_ns: Mapping[Kind, int]
    members_ns: Mapping[str, Mapping[Kind, int]]
    """Forward and sampling, by member."""
    is_whole: bool
    """False: recording ended by itself, since there was too much."""

    @property
    def unnamed_ns(self) -> int:
        """What lies between the spans."""
        return self.wall_ns - sum(self.kinds_ns.values())

    def share(self, kind: Kind) -> float:
        """Of the wall time."""
        return self.kinds_ns[kind] / self.wall_ns if self.wall_ns else 0.0

    def to_json(self) -> dict[str, Any]:
        """Milliseconds by name."""
        members = {
            name: {kind.value: ns / 1e6 for kind, ns in kinds.items()}
            for name, kinds in self.members_ns.items()
        }
        return {
            "worker": self.worker,
            "wall_ms": self.wall_ns / 1e6,
            **{f"{kind}_ms": ns / 1e6 for kind, ns in self.kinds_ns.items()},
            "unnamed_ms": self.unnamed_ns / 1e6,
            "members_ms": members,
            "is_whole": self.is_whole,
        }


class Hops(NamedTuple):
    """Frames from one worker to another that found their receiver waiting: others lie in its
    buffer until it looks."""

    sender: str
    receiver: str
    num_frames: int
    median_us: float
    p95_us: float

    def to_json(self) -> dict[str, Any]:
        """All fields by name."""
        return self._asdict()


def shares_of(timeline: Timeline) -> list[WorkerShares]:
    """One for each worker, in their order."""
    return [_worker_shares(track, timeline.flows) for track in timeline.tracks]


def hops_of(timeline: Timeline) -> list[Hops]:
    """One for each ordered pair of workers between which a frame found its receiver waiting."""
    waits = {track.worker: track.waits for track in timeline.tracks}
    times_us: dict[tuple[str, str], list[float]] = defaultdict(list)
    for flow in timeline.flows:
        if _found_waiting(flow, waits[flow.receiver]):
            hop_ns = flow.received_ns - flow.sent_ns
            times_us[flow.sender, flow.receiver].append(hop_ns / 1e3)
    return [
        Hops(sender, receiver, len(times), _quantile(times, 0.5), _quantile(times, 0.95))
        for (sender, receiver), times in sorted(times_us.items())
    ]


def self_times_ns(spans: Sequence[Span]) -> Iterator[tuple[Span, int]]:
    """Each span with its time less that of its children.

    Args:
        spans: in the order in which they began, parents before their children.
    """
    open_spans: list[tuple[Span, int]] = []
    for span in spans:
        while open_spans and open_spans[-1][0].ended_ns <= span.began_ns:
            yield open_spans.pop()
        if open_spans:
            parent, own_ns = open_spans[-1]
            open_spans[-1] = parent, own_ns - (span.ended_ns - span.began_ns)
        open_spans.append((span, span.ended_ns - span.began_ns))
    yield from reversed(open_spans)


def overlap_ns(some: Sequence[tuple[int, int]], others: Sequence[tuple[int, int]]) -> int:
    """For how long both go on. Each is in order, and no two of the same overlap."""
    total_ns = i = j = 0
    while i < len(some) and j < len(others):
        both_ns = min(some[i][1], others[j][1]) - max(some[i][0], others[j][0])
        total_ns += max(0, both_ns)
        if some[i][1] < others[j][1]:
            i += 1
        else:
            j += 1
    return total_ns


def _worker_shares(track: Track, flows: Sequence[Flow]) -> WorkerShares:
    kinds_ns = dict.fromkeys(Kind, 0)
    members_ns: dict[str, dict[Kind, int]] = {}
    for span, own_ns in self_times_ns(track.spans):
        kinds_ns[span.name.kind] += own_ns
        if span.name.member and span.name.kind in _MODEL_KINDS:
            member = members_ns.setdefault(span.name.member, dict.fromkeys(_MODEL_KINDS, 0))
            member[span.name.kind] += own_ns
    under_way = [(f.sent_ns, f.received_ns) for f in flows if f.receiver == track.worker]
    hop_ns = overlap_ns(track.waits, _union(under_way))
    kinds_ns[Kind.HOP] += hop_ns
    kinds_ns[Kind.WAITING] -= hop_ns
    return WorkerShares(track.worker, track.wall_ns, kinds_ns, members_ns, track.is_whole)


def _union(intervals: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """In order, and joined where they overlap."""
    joined: list[tuple[int, int]] = []
    for began, ended in sorted(intervals):
        if joined and began <= joined[-1][1]:
            joined[-1] = joined[-1][0], max(joined[-1][1], ended)
        elif began < ended:
            joined.append((began, ended))
    return joined


def _found_waiting(flow: Flow, waits: Sequence[tuple[int, int]]) -> bool:
    """Whether the frame was sent during one of the receiver's waits and read behind it."""
    index = bisect_right(waits, flow.sent_ns, key=lambda wait: wait[0]) - 1
    if index < 0 or flow.sent_ns > waits[index][1]:
        return False
    return index + 1 == len(waits) or flow.received_ns <= waits[index + 1][0]


def _quantile(values: Sequence[float], quantile: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(quantile * len(ordered)))]
