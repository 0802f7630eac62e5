"""What steps take beside what was profiled."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from specrouter_dist.routing.line import Line, Steps
from specrouter_dist.routing.state import LineState

TIMES_US = st.floats(1.0, 1e7)
STEPS = st.lists(st.tuples(TIMES_US, TIMES_US, st.integers(1, 10_000)), max_size=30)


def add(line: Line, profiled_us: float, mean_us: float, count: int) -> float:
    """A report of one kind of steps."""
    return line.observe([Steps(profiled_us, mean_us * count, count)])


@given(STEPS, st.integers(0, 5))
def test_whatever_is_observed_more_work_takes_no_less(
    steps: list[tuple[float, float, int]], num_idle_s: int
) -> None:
    line = Line()
    for step in steps:
        add(line, *step)
    for _ in range(num_idle_s):
        line.fade()
    found = [line.at(profiled_us) for profiled_us in (1.0, 10.0, 1e4, 1e7)]
    assert all(map(math.isfinite, found)) and found[0] > 0
    assert found == sorted(found)
    assert line.state.weight <= 2000


def test_what_was_profiled_holds_until_something_is_observed() -> None:
    assert Line().at(123.0) == 123.0
    line = Line()
    line.fade()
    assert line.at(123.0) == 123.0


def test_what_is_observed_long_ago_counts_for_less() -> None:
    line = Line()
    for more_us in (500.0, 100.0):
        for profiled_us in (100.0, 900.0) * 20:
            add(line, profiled_us, more_us + profiled_us, 1000)
    assert line.at(100.0) == pytest.approx(200.0, rel=0.05)
    assert line.at(900.0) == pytest.approx(1000.0, rel=0.05)


def test_sizes_that_hardly_differ_tell_no_slope() -> None:
    line = Line()
    for _ in range(50):
        add(line, 1000.0, 1300.0, 1000)
        add(line, 1010.0, 1250.0, 1000)
    assert line.at(2000.0) == pytest.approx(2300.0, rel=0.05)


def test_what_has_become_slower_and_is_left_goes_back_to_what_it_was() -> None:
    line = Line()
    for profiled_us in (100.0, 500.0) * 10:
        add(line, profiled_us, 300.0 + profiled_us, 100)
    usual_us = line.at(300.0)
    for factor in (1.0, pytest.approx(5.0, rel=0.05)):
        assert add(line, 100.0, 2000.0, 50) == factor
    assert line.at(300.0) == pytest.approx(5 * usual_us, rel=0.05), "of every size"
    for _ in range(20):
        line.fade()
    assert line.at(300.0) == pytest.approx(usual_us, rel=0.02)


def test_what_is_usual_fades_slowly() -> None:
    line = Line()
    add(line, 100.0, 180.0, 1000)
    for _ in range(10):
        line.fade()
    assert 165.0 < line.at(100.0) < 175.0
    for _ in range(1000):
        line.fade()
    assert line.at(100.0) == pytest.approx(100.0, rel=0.02)


def test_it_goes_on_where_it_stood() -> None:
    line = Line()
    for profiled_us in (100.0, 500.0):
        add(line, profiled_us, 2 * profiled_us, 100)
    again = Line(LineState(*line.state))
    assert again.at(300.0) == line.at(300.0)


def test_what_crept_up_and_is_left_goes_back_to_what_it_was() -> None:
    """Not all at once, so that no time is far from the ones before."""
    line = Line()
    for _ in range(100):
        add(line, 100.0, 120.0, 100)
    for mean_us in range(140, 500, 20):
        add(line, 100.0, float(mean_us), 150)
    assert line.at(100.0) > 280.0
    for _ in range(10):
        line.fade()
    assert line.at(100.0) < 180.0


def test_what_is_slow_for_long_is_usual() -> None:
    line = Line()
    add(line, 100.0, 120.0, 100)
    for _ in range(400):
        add(line, 100.0, 200.0, 500)
    for _ in range(10):
        line.fade()
    assert line.at(100.0) > 180.0


def test_what_has_become_faster_is_usual_at_once() -> None:
    line = Line()
    for mean_us, times in ((300.0, 200), (100.0, 2)):
        for _ in range(times):
            add(line, 100.0, mean_us, 500)
    for _ in range(10):
        line.fade()
    assert line.at(100.0) == pytest.approx(100.0, rel=0.05)
