"""What is called before the engine thread leaves no threads behind."""

import os
import threading
import time

import pytest
import torch

from specrouter_dist.worker.openmp import call_apart

_NUM_THREADS = 4
_PATIENCE_S = 10.0


def num_tasks() -> int:
    """Threads of this process, Python's and others'."""
    return len(os.listdir("/proc/self/task"))


def test_it_is_called_on_a_thread_that_is_gone_afterwards() -> None:
    called_on = call_apart(threading.current_thread)
    assert called_on is not threading.main_thread()
    assert not called_on.is_alive()


def test_its_error_is_raised() -> None:
    with pytest.raises(KeyError, match="lost"):
        call_apart(lambda: {}["lost"])


def test_its_team_ends_with_it() -> None:
    def multiply() -> int:
        before = num_tasks()
        torch.set_num_threads(_NUM_THREADS)
        torch.ones(4000, 500).exp()
        return num_tasks() - before

    before = torch.get_num_threads()
    torch.set_num_threads(_NUM_THREADS)  # Makes threads of another kind, which stay.
    try:
        num_others = num_tasks()
        assert call_apart(multiply) == _NUM_THREADS - 1
        end_s = time.monotonic() + _PATIENCE_S
        while num_tasks() > num_others and time.monotonic() < end_s:
            time.sleep(0.01)
        assert num_tasks() <= num_others  # fewer: those of earlier tests may end late
    finally:
        torch.set_num_threads(before)
