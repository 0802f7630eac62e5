"""Clocks and flows."""

from specrouter_dist.tracing.timeline import Flow, timeline_of
from tests.unit.tracing.made import a_round, trace


def test_a_frame_flows_to_where_its_message_arrives() -> None:
    assert timeline_of(a_round()).flows == (
        Flow("drafter", "target", "proposals", 45_000, 75_000),
        Flow("target", "drafter", "truth", 130_000, 155_000),
    )


def test_spans_come_as_they_began_and_parents_first() -> None:
    (track, _) = timeline_of(a_round()).tracks
    labels = [span.name.label for span in track.spans]
    assert labels == ["turn", "forward", "sample", "send", "read", "wait"]


def test_of_one_stretch_the_span_that_was_recorded_later_is_the_parent() -> None:
    (track,) = timeline_of([trace("a", [("wait", 1, 2), ("read", 1, 2)])]).tracks
    assert [span.name.label for span in track.spans] == ["read", "wait"]


def test_a_replaced_message_does_not_arrive_and_joined_frames_do() -> None:
    sender = trace(
        "a",
        [("send", 0, 9)],
        [("b", True, 1, ("old",)), ("b", True, 2, ("new", "x")), ("b", True, 3, ("y",))],
    )
    receiver = trace("b", [("read", 0, 9)], [("a", False, 5, ("new", "x", "y"))])
    flows = timeline_of([sender, receiver]).flows
    assert flows == (Flow("a", "b", "new", 2000, 5000), Flow("a", "b", "y", 3000, 5000))


def test_equal_messages_arrive_in_order_and_each_once() -> None:
    sender = trace("a", [], [("b", True, t, ("same",)) for t in (1, 2, 3)])
    receiver = trace("b", [], [("a", False, t, ("same",)) for t in (4, 6)])
    flows = timeline_of([sender, receiver]).flows
    assert [(f.sent_ns, f.received_ns) for f in flows] == [(1000, 4000), (2000, 6000)]


def test_workers_of_a_node_keep_their_clock_and_those_of_another_are_shifted_by_the_day() -> None:
    traces = [
        trace("a", [("read", 0, 1)], wall_us=1000),
        # Readings of one clock that differ by their jitter only.
        trace("b", [("read", 0, 1)], wall_us=1003),
        trace("c", [("read", 7, 8)], node="there", wall_us=1100),
        trace("d", [("read", 7, 8)], node="there", wall_us=1102),
    ]
    began_ns = [track.spans[0].began_ns for track in timeline_of(traces).tracks]
    assert began_ns == [0, 0, 107_000, 107_000]


def test_a_flow_of_another_node_is_shifted_too() -> None:
    sender = trace("a", [], [("b", True, 200, ("k",))], node="here", wall_us=0)
    receiver = trace("b", [], [("a", False, 120, ("k",))], node="there", wall_us=100)
    assert timeline_of([sender, receiver]).flows == (Flow("a", "b", "k", 200_000, 220_000),)


def test_nothing_recorded_is_no_error() -> None:
    timeline = timeline_of([trace("a", [])])
    assert (timeline.began_ns, timeline.tracks[0].wall_ns, timeline.flows) == (0, 0, ())
    assert timeline_of([]).tracks == ()
