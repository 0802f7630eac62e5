"""Virtual time: a heap of what happens when."""

from collections.abc import Callable
from heapq import heappop, heappush

Action = Callable[[], None]


class Clock:
    """Runs actions in the order of their times; equal times in the order of their scheduling.

    Turns come after everything else of their time, so that a device that takes its turn has read
    all the mail that arrives at that moment.
    """

    def __init__(self) -> None:
        self.now_us = 0.0
        self._heap: list[tuple[float, bool, int, Action]] = []
        self._count = 0

    def after(self, delay_us: float, action: Action) -> None:
        """Runs ``action`` in ``delay_us`` from now."""
        self._push(delay_us, False, action)

    def turn(self, action: Action) -> None:
        """Runs ``action`` at the end of the present moment."""
        self._push(0.0, True, action)

    @property
    def is_over(self) -> bool:
        """Whether nothing more will happen."""
        return not self._heap

    def run_next(self) -> bool:
        """Runs the next action; whether there was one."""
        if self.is_over:
            return False
        self.now_us, _, _, action = heappop(self._heap)
        action()
        return True

    def _push(self, delay_us: float, is_turn: bool, action: Action) -> None:
        self._count += 1
        heappush(self._heap, (self.now_us + delay_us, is_turn, self._count, action))
