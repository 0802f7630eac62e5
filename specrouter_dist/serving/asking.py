"""Calls of the router, which may be slow: beside the event loop, and beside all other work."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from specrouter_dist.errors import UnavailableError

AnswerT = TypeVar("AnswerT")


class Asking:
    """Asks with threads of its own: however slow the router is, only those wait who need it.

    Args:
        purpose: names the threads.
        num_threads: so many ask at a time.
    """

    def __init__(self, purpose: str, num_threads: int) -> None:
        self._executor = ThreadPoolExecutor(num_threads, thread_name_prefix=purpose)

    async def ask(self, question: Callable[[], AnswerT], timeout_s: float) -> AnswerT:
        """The answer; whoever waits for a thread waits for no longer either.

        Raises:
            UnavailableError: the router does not answer in time.
        """
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(timeout_s):
                return await loop.run_in_executor(self._executor, question)
        except TimeoutError:
            raise UnavailableError(f"the router did not answer in {timeout_s:.0f} s") from None
