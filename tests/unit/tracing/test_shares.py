"""A worker's time by what it went to."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from specrouter_dist.tracing.records import Kind
from specrouter_dist.tracing.shares import hops_of, overlap_ns, self_times_ns, shares_of
from specrouter_dist.tracing.timeline import timeline_of
from tests.unit.tracing.made import a_round, trace


def test_the_shares_of_a_round_made_by_hand() -> None:
    drafter, target = shares_of(timeline_of(a_round()))
    us = {kind: ns / 1000 for kind, ns in drafter.kinds_ns.items()}
    assert us == {
        Kind.FORWARD: 30,
        Kind.SAMPLING: 5,
        Kind.PYTHON: 15,
        Kind.SERIALISATION: 22,
        # The answer was sent at 130, and the wait ended at 150.
        Kind.HOP: 20,
        Kind.WAITING: 68,
    }
    assert (drafter.wall_ns, drafter.unnamed_ns) == (160_000, 0)
    assert drafter.members_ns == {"m": {Kind.FORWARD: 30_000, Kind.SAMPLING: 5_000}}
    assert target.kinds_ns[Kind.HOP] == 25_000
    assert target.kinds_ns[Kind.WAITING] == 35_000
    assert target.share(Kind.FORWARD) == pytest.approx(40 / 132)


def test_what_lies_between_spans_is_unnamed() -> None:
    (shares,) = shares_of(timeline_of([trace("a", [("turn", 0, 10), ("turn", 15, 20)])]))
    assert (shares.wall_ns, shares.unnamed_ns) == (20_000, 5_000)


def test_frames_under_way_at_once_count_once() -> None:
    sender = trace("a", [], [("b", True, 2, ("x",)), ("b", True, 4, ("y",))])
    receiver = trace(
        "b",
        [("wait", 0, 10), ("read", 0, 12)],
        [("a", False, 6, ("x",)), ("a", False, 11, ("y",))],
    )
    shares = shares_of(timeline_of([sender, receiver]))[1]
    assert (shares.kinds_ns[Kind.HOP], shares.kinds_ns[Kind.WAITING]) == (8_000, 2_000)


def test_a_clock_that_is_off_makes_no_negative_hop() -> None:
    sender = trace("a", [], [("b", True, 50, ("x",))])
    receiver = trace("b", [("wait", 0, 10), ("wait", 40, 60)], [("a", False, 11, ("x",))])
    shares = shares_of(timeline_of([sender, receiver]))[1]
    assert (shares.kinds_ns[Kind.HOP], shares.kinds_ns[Kind.WAITING]) == (0, 30_000)


def test_hops_are_of_frames_that_found_their_receiver_waiting() -> None:
    first, second = hops_of(timeline_of(a_round()))
    assert first == ("drafter", "target", 1, 30.0, 30.0)
    assert second == ("target", "drafter", 1, 25.0, 25.0)
    busy = trace(
        "b", [("wait", 0, 10), ("turn", 10, 50), ("wait", 50, 52)], [("a", False, 53, ("x",))]
    )
    assert hops_of(timeline_of([trace("a", [], [("b", True, 20, ("x",))]), busy])) == []


def test_a_frame_that_a_wait_missed_is_no_hop() -> None:
    """Sent as a wait ended for another reason, and read behind a later one."""
    receiver = trace("b", [("wait", 0, 10), ("wait", 90, 95)], [("a", False, 96, ("x",))])
    assert hops_of(timeline_of([trace("a", [], [("b", True, 9, ("x",))]), receiver])) == []


def test_nothing_recorded_has_no_shares() -> None:
    (shares,) = shares_of(timeline_of([trace("a", [])]))
    assert [shares.share(kind) for kind in Kind] == [0.0] * len(Kind)


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), max_size=20))
def test_the_times_of_any_nesting_add_up(pairs: list[tuple[int, int]]) -> None:
    nested: list[tuple[int, int]] = []
    for one, other in pairs:
        began, ended = sorted((one, other))
        if all(ended <= b or began >= e or (b <= began and ended <= e) for b, e in nested):
            nested.append((began, ended))
    # Recorded as they ended, children before their parents.
    spans = [("turn", began, ended) for began, ended in reversed(nested)]
    (track,) = timeline_of([trace("a", spans)]).tracks
    covered = {t for began, ended in nested for t in range(began, ended)}
    own_ns = [ns for _, ns in self_times_ns(track.spans)]
    assert all(ns >= 0 for ns in own_ns)
    assert (len(own_ns), sum(own_ns)) == (len(nested), 1000 * len(covered))


INTERVALS = st.sets(st.integers(0, 50)).map(
    lambda ends: list(zip(sorted(ends)[::2], sorted(ends)[1::2], strict=False))
)


@given(INTERVALS, INTERVALS)
def test_overlaps(some: list[tuple[int, int]], others: list[tuple[int, int]]) -> None:
    def covered(intervals: list[tuple[int, int]]) -> set[int]:
        return {t for began, ended in intervals for t in range(began, ended)}

    assert overlap_ns(some, others) == len(covered(some) & covered(others))
