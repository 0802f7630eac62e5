"""A round of two workers, by hand.

us      0    10        40  50        80  90  100
drafter |turn[forward(..sample)][send]|read[wait            ]read|
target  |read[wait               ]read|turn[forward]|
"""

from array import array
from collections.abc import Sequence

from specrouter_dist.tracing.records import Frame, Kind, SpanName, WorkerTrace

NAMES = {
    "turn": SpanName(Kind.PYTHON, "turn"),
    "forward": SpanName(Kind.FORWARD, "forward", "m"),
    "sample": SpanName(Kind.SAMPLING, "sample", "m"),
    "send": SpanName(Kind.SERIALISATION, "send"),
    "read": SpanName(Kind.SERIALISATION, "read"),
    "wait": SpanName(Kind.WAITING, "wait"),
}


def trace(
    worker: str,
    spans: Sequence[tuple[str, float, float]],
    frames: Sequence[tuple[str, bool, float, tuple[str, ...]]] = (),
    *,
    node: str = "here",
    wall_us: float = 0,
) -> WorkerTrace:
    """Times in microseconds; a frame is its peer, whether it was sent, when, and its messages."""
    numbers = array("q")
    for name, began, ended in spans:
        numbers.extend((list(NAMES).index(name), int(began * 1000), int(ended * 1000)))
    return WorkerTrace(
        worker,
        node,
        int(wall_us * 1000),
        tuple(NAMES.values()),
        numbers,
        tuple(
            Frame(peer, is_sent, int(at * 1000), tuple((key,) for key in keys))
            for peer, is_sent, at, keys in frames
        ),
    )


def a_round() -> list[WorkerTrace]:
    """The drafter drafts for 40 us and sends; the target verifies and answers."""
    drafter = trace(
        "drafter",
        [
            ("sample", 30, 35),
            ("forward", 5, 40),
            ("send", 45, 55),
            ("turn", 0, 60),
            ("wait", 62, 150),
            ("read", 60, 160),
        ],
        [("target", True, 45, ("proposals",)), ("target", False, 155, ("truth",))],
    )
    target = trace(
        "target",
        [
            ("wait", 10, 70),
            ("read", 8, 80),
            ("forward", 85, 125),
            ("send", 130, 138),
            ("turn", 80, 140),
        ],
        [("drafter", False, 75, ("proposals",)), ("drafter", True, 130, ("truth",))],
    )
    return [drafter, target]
