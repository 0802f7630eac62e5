"""A timeline in the Chrome trace event format, which Perfetto and chrome://tracing open.

Each worker is a process with one thread; spans are complete events ("X"), frames are flows from
the span that sent them to the span that received them ("s", "f"). Times are microseconds from the
first event.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from specrouter_dist.tracing.timeline import Flow, Timeline, Track

_THREAD = 1


def chrome_trace(timeline: Timeline, other: Mapping[str, Any]) -> dict[str, Any]:
    """The content of the file; ``other`` is kept in it as it is."""
    pids = {track.worker: pid for pid, track in enumerate(timeline.tracks, 1)}
    events: list[dict[str, Any]] = []
    for track in timeline.tracks:
        events += _worker_events(track, pids[track.worker], timeline.began_ns)
    for number, flow in enumerate(timeline.flows, 1):
        events += _flow_events(number, flow, pids, timeline.began_ns)
    return {"traceEvents": events, "displayTimeUnit": "ms", "otherData": dict(other)}


def _worker_events(track: Track, pid: int, began_ns: int) -> Iterator[dict[str, Any]]:
    place = {"pid": pid, "tid": _THREAD}
    metadata: dict[str, dict[str, object]] = {
        "process_name": {"name": track.worker},
        "process_sort_index": {"sort_index": pid},
        "thread_name": {"name": "engine"},
    }
    for field, args in metadata.items():
        yield {"ph": "M", "name": field, "args": args, **place}
    for span in track.spans:
        name = span.name
        yield {
            "ph": "X",
            "name": f"{name.label} {name.member}".rstrip(),
            "cat": name.kind.value,
            "ts": (span.began_ns - began_ns) / 1e3,
            "dur": (span.ended_ns - span.began_ns) / 1e3,
            **place,
        }


def _flow_events(
    number: int, flow: Flow, pids: Mapping[str, int], began_ns: int
) -> Iterator[dict[str, Any]]:
    for phase, worker, at_ns in (
        ("s", flow.sender, flow.sent_ns),
        ("f", flow.receiver, flow.received_ns),
    ):
        event = {
            "ph": phase,
            "id": number,
            "name": flow.kind,
            "cat": "frame",
            "ts": (at_ns - began_ns) / 1e3,
            "pid": pids[worker],
            "tid": _THREAD,
        }
        # It ends at the span around it, not at the next one.
        yield event if phase == "s" else {**event, "bp": "e"}
