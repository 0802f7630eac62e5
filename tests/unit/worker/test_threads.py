"""The number of a forward's threads: tried, chosen, and tried again when something has changed."""

from collections.abc import Callable

import pytest

from specrouter_dist.worker.threads import Kind, Threads, kind_of

VERIFY = kind_of(5, 0)
STEP = kind_of(1, 7)

TimeOf = Callable[[int], float]
"""Of a forward with so many threads, in microseconds."""


def run(
    threads: Threads, count: int, us: TimeOf, kind: Kind = VERIFY, *, is_alone: bool = True
) -> list[int]:
    """So many forwards; returns the numbers of threads that they had."""
    had = []
    for _ in range(count):
        had.append(threads.begin(kind, is_alone=is_alone))
        threads.end(us(had[-1]))
    return had


def quicker(num_threads: int) -> float:
    """More threads are faster."""
    return 800.0 / num_threads


def disturbed(num_threads: int) -> float:
    """Somebody else wants a core: all wait for the thread that has none."""
    return 800.0 if num_threads == 1 else 4000.0


PAUSE = 32
"""Forwards before the first trial, and behind one that has changed the number."""


def settled(us: TimeOf = quicker) -> Threads:
    threads = Threads(1, (1, 2), first=1)
    run(threads, PAUSE + 8, us)
    return threads


def test_each_number_is_tried_by_turns_and_the_fastest_is_used() -> None:
    threads = Threads(1, (1, 2), first=1)
    assert run(threads, PAUSE, quicker) == [1] * PAUSE
    assert run(threads, 8, quicker) == [1, 2, 2, 1] * 2
    assert run(threads, PAUSE, quicker) == [2] * PAUSE
    assert run(threads, 8, quicker) == [1, 2, 2, 1] * 2


def test_of_many_numbers_the_next_ones_are_tried_until_none_is_faster() -> None:
    threads = Threads(1, (1, 2, 4, 8, 16), first=4)
    run(threads, PAUSE, quicker)
    assert run(threads, 12, quicker) == [2, 4, 8, 8, 4, 2] * 2
    run(threads, 200, quicker)
    assert run(threads, 1, quicker) == [16]
    assert run(threads, 10_000, lambda n: 800.0 + 100 * n)[-1] == 1


def test_requests_that_take_turns_do_not_decide() -> None:
    threads = Threads(1, (1, 2), first=1)
    run(threads, PAUSE, quicker)
    for long in (False, True) * 4:
        run(threads, 1, lambda n, long=long: quicker(n) * (1.8 if long else 1.0))
    assert run(threads, 1, quicker) == [2]


def test_threads_that_now_and_then_wait_for_a_core_cost_what_they_take_together() -> None:
    """Three of four forwards are faster with two threads, the fourth is five times slower."""
    waits = iter([False, False, False, True] * 10_000)
    threads = Threads(1, (1, 2), first=2)
    had = run(threads, 600, lambda n: 800.0 if n == 1 else 4000.0 if next(waits) else 400.0)
    assert had[-1] == 1
    assert had[100:].count(2) < 50


def test_more_threads_have_to_save_a_tenth() -> None:
    assert run(settled(lambda n: 800.0 - 40 * n), 1, quicker) == [1]
    assert run(settled(lambda n: 800.0 - 90 * n), 1, quicker) == [2]


def test_trials_become_rare_while_the_answer_stays() -> None:
    threads = settled()
    had = run(threads, 200_000, quicker)
    assert had.count(1) / len(had) < 0.005
    last_trial = len(had) - had[::-1].index(1)
    assert len(had) - last_trial <= 1024 + 8


def test_forwards_that_become_slow_are_left_before_the_next_trial() -> None:
    threads = settled()
    run(threads, 10_000, quicker)
    assert run(threads, 30, disturbed)[-10:] == [1] * 10, "one thread does not wait for another"


def test_one_slow_forward_is_none() -> None:
    threads = settled()
    run(threads, 20, quicker)
    run(threads, 1, disturbed)
    assert run(threads, 3, quicker) == [2] * 3


def test_numbers_that_are_alike_do_not_take_turns() -> None:
    threads, us = settled(), iter([795.0, 805.0] * 5000)
    had = run(threads, 5000, lambda n: next(us) * (1.05 if n == 1 else 1.0))
    assert had.count(1) < 100


def test_after_a_change_it_is_soon_tried_again() -> None:
    threads = settled()
    run(threads, 10_000, quicker)
    run(threads, 40, disturbed)
    assert run(threads, 1000, quicker)[-1] == 2


def test_kinds_of_forwards_have_numbers_of_their_own() -> None:
    threads = settled()
    run(threads, PAUSE + 8, disturbed, STEP)
    assert run(threads, 1, quicker) == [2]
    assert run(threads, 1, quicker, STEP) == [1]


def test_beside_a_drafter_it_has_its_own() -> None:
    threads = settled()
    assert run(threads, 100, quicker, is_alone=False) == [1] * 100
    assert not threads.was_trial
    assert run(threads, 1, quicker) == [2]


def test_where_there_is_nothing_to_choose_nothing_is_tried() -> None:
    for threads in (Threads(3), Threads(3, (1,), first=3)):
        assert run(threads, 200, disturbed) == [3] * 200
        assert not threads.was_trial


def test_only_numbers_that_are_not_chosen_are_trials() -> None:
    threads = settled()
    run(threads, PAUSE, quicker)
    for is_trial in (True, False, False, True) * 2:
        run(threads, 1, quicker)
        assert threads.was_trial is is_trial
    run(threads, 1, quicker)
    assert not threads.was_trial


@pytest.mark.parametrize(("rows", "log2"), [(1, 0), (2, 1), (3, 2), (4, 2), (5, 3), (64, 6)])
def test_sizes_within_a_factor_of_two_are_alike(rows: int, log2: int) -> None:
    assert kind_of(rows, 0) == Kind(log2, 0)
