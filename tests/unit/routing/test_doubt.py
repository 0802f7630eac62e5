"""Hiccups of a machine, and changes of it."""

import pytest

from specrouter_dist.routing.doubt import Lateness


def late(waits: list[float]) -> list[int]:
    """At which of them a change is noticed, once it is known how long they usually are."""
    lateness = Lateness()
    for usual in (0.0, 3.0, 2.0, 0.1) * 50:
        lateness.is_change(usual, is_usual=True)
    return [at for at, wait in enumerate(waits) if lateness.is_change(wait, is_usual=True)]


@pytest.mark.parametrize(
    ("waits", "noticed"),
    [
        ([3.0, 0.1, 5.0, 5.0, 5.0], []),
        ([60.0, 3.0, 60.0, 0.1, 60.0], []),
        ([60.0, 50.0, 60.0, 70.0, 100.0], [1]),
        ([0.0, 60.0, 7.0, 300.0, 300.0], [2, 4]),
    ],
)
def test_two_far_longer_ones_in_a_row_are_a_change_and_then_usual(
    waits: list[float], noticed: list[int]
) -> None:
    assert late(waits) == noticed


def test_what_was_long_once_is_forgotten() -> None:
    lateness = Lateness()
    for wait in [100.0] * 3 + [1.0] * 2000:
        lateness.is_change(wait, is_usual=True)
    assert [lateness.is_change(wait, is_usual=True) for wait in (10.0, 10.0)] == [False, True]


def test_what_cannot_be_compared_may_be_late_but_is_not_usual() -> None:
    lateness = Lateness()
    for wait in [1.0] * 10:
        lateness.is_change(wait, is_usual=True)
    for wait in (30.0, 1.5, 1.9, 30.0, 1.9):
        assert not lateness.is_change(wait, is_usual=False)
    assert [lateness.is_change(3.0, is_usual=False) for _ in range(2)] == [False, True]
