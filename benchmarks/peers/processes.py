"""A process with its children: what they take, and their end."""

from collections.abc import Sequence
from contextlib import suppress

import psutil

_CLOSE_S = 30.0


class Family:
    """A process and all that it has started.

    Args:
        pid: of the process.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid

    def members(self) -> list[psutil.Process]:
        """Those that run, the process itself first."""
        try:
            process = psutil.Process(self._pid)
            return [process, *process.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def cpu_s(self) -> float:
        """Processor time since their starts."""
        times = [process.cpu_times() for process in self.members()]
        return sum(time.user + time.system for time in times)

    def rss_bytes(self) -> int:
        """Memory; what they share counts in each."""
        return sum(process.memory_info().rss for process in self.members())


def end(family: Sequence[psutil.Process]) -> None:
    """Waits until they have ended by themselves, and ends what is left of them."""
    _, alive = psutil.wait_procs(family, timeout=_CLOSE_S)
    for process in alive:
        with suppress(psutil.NoSuchProcess):
            process.kill()
