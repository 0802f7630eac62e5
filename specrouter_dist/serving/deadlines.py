"""A point in time by which a request has to be done."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from specrouter_dist.errors import DeadlineError


class Deadline:
    """Of one request; made on its event loop.

    Args:
        timeout_s: from now on; None: never.
    """

    def __init__(self, timeout_s: float | None) -> None:
        self._timeout_s = timeout_s
        self._end_s = None if timeout_s is None else asyncio.get_running_loop().time() + timeout_s

    @asynccontextmanager
    async def kept(self) -> AsyncIterator[None]:
        """What is awaited within is cancelled at the deadline.

        Raises:
            DeadlineError: that has happened.
        """
        try:
            async with asyncio.timeout_at(self._end_s):
                yield
        except TimeoutError:
            raise DeadlineError(
                f"the request was not done within {self._timeout_s:g} seconds, and was cancelled"
            ) from None
