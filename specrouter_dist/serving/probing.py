"""Health: whether real tokens come."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

from specrouter_dist.config import SamplingParams
from specrouter_dist.errors import NoRoomError, UnavailableError
from specrouter_dist.serving.choices import Runner, results_of
from specrouter_dist.serving.results import GenerateRequest, GenerateResult
from specrouter_dist.text.tokenizer import Tokenizer

HEALTH_TIMEOUT_S = 10.0
KEPT_S = 1.0
"""How long an answer is as good as a new one."""
_PAUSE_S = 0.1
"""Between two attempts where the pool has no room."""
_HEALTH_TOKENS = 8
"""Enough for proposals to be made and verified."""


class Probe:
    """Generates a few tokens, which are no traffic. However many ask, one runs at a time.

    Args:
        runner: for the probe alone.
        tokenizer: the target's.
        clock: seconds.
    """

    def __init__(
        self, runner: Runner, tokenizer: Tokenizer, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._runner = runner
        self._tokenizer = tokenizer
        self._clock = clock
        self._probing: asyncio.Task[dict[str, Any]] | None = None
        self._ended_s = 0.0

    async def health(self, traffic: Runner) -> dict[str, Any]:
        """How the present probe went, or the last if that has just ended; busy, where only
        ``traffic`` gets tokens.

        Raises:
            UnavailableError: no token came in time.
        """
        if self._probing is None or self._is_old(self._probing):
            self._probing = asyncio.ensure_future(self._timed(traffic))
            # What has failed while nobody waited any more would be logged as lost.
            self._probing.add_done_callback(lambda task: task.cancelled() or task.exception())
        # Whoever goes away leaves it to the others.
        return await asyncio.shield(self._probing)

    def _is_old(self, probing: asyncio.Task[dict[str, Any]]) -> bool:
        is_kept = self._clock() < self._ended_s + KEPT_S
        return probing.done() and (probing.cancelled() or not is_kept)

    async def _timed(self, traffic: Runner) -> dict[str, Any]:
        try:
            return await self._probe(traffic)
        finally:
            self._ended_s = self._clock()

    async def _probe(self, traffic: Runner) -> dict[str, Any]:
        before = traffic.num_outputs
        sampling = SamplingParams(max_tokens=_HEALTH_TOKENS, temperature=0.0, ignore_eos=True)
        request = GenerateRequest(self._tokenizer.encode("Health"), sampling)
        started = time.perf_counter()
        try:
            async with asyncio.timeout(HEALTH_TIMEOUT_S):
                while (result := await self._result_of(request)) is None:
                    # Full: then others get tokens, or there will be room.
                    if traffic.num_outputs > before:
                        return {"status": "busy"}
                    await asyncio.sleep(_PAUSE_S)
        except TimeoutError:
            if traffic.num_outputs > before:
                return {"status": "busy"}
            raise UnavailableError(f"no token came within {HEALTH_TIMEOUT_S:.0f} s") from None
        return {
            "status": "ok",
            "chain": list(result.chain),
            "num_tokens": len(result.token_ids),
            "time_ms": (time.perf_counter() - started) * 1e3,
        }

    async def _result_of(self, request: GenerateRequest) -> GenerateResult | None:
        """None: the pool has no room."""
        try:
            (result,) = await results_of(self._runner.rounds([request]))
        except NoRoomError:
            return None
        return result
