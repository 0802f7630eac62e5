"""How much of what clients send may lie in the service before it is admitted."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from specrouter_dist.errors import RateLimitError

_RETRY_AFTER_S = 1.0
"""Reading, checking and tokenizing a body takes about so long."""


class Intake:
    """Counts the bytes of requests that are read, checked and tokenized. Of one event loop.

    Args:
        max_bytes: of all of them together; None: no limit.
    """

    def __init__(self, max_bytes: int | None) -> None:
        self._max_bytes = max_bytes
        self.num_bytes = 0
        """Of all that have not been left."""

    @contextmanager
    def taking(self) -> Iterator[Callable[[int], None]]:
        """For the bytes of one request, which are taken as they come; leaving gives them back.

        Raises:
            RateLimitError: when they are taken: there would be too many.
        """
        taken = 0

        def take(num_bytes: int) -> None:
            nonlocal taken
            if self._max_bytes is not None and self.num_bytes + num_bytes > self._max_bytes:
                raise RateLimitError(
                    f"{self.num_bytes} bytes of requests are being read and checked, and no more "
                    f"than {self._max_bytes} may be; these would be {num_bytes} more",
                    retry_after_s=_RETRY_AFTER_S,
                )
            self.num_bytes += num_bytes
            taken += num_bytes

        try:
            yield take
        finally:
            self.num_bytes -= taken
