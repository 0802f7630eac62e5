"""Health: whether real tokens come."""

import asyncio
import time
from typing import Any

from specrouter_dist.config import SamplingParams
from specrouter_dist.errors import NoRoomError, UnavailableError
from specrouter_dist.serving.choices import Runner, results_of
from specrouter_dist.serving.results import GenerateRequest
from specrouter_dist.text.tokenizer import Tokenizer

HEALTH_TIMEOUT_S = 10.0
_HEALTH_TOKENS = 8
"""Enough for proposals to be made and verified."""


class Probe:
    """Generates a few tokens, which are no traffic.

    Args:
        runner: for the probe alone.
        tokenizer: the target's.
    """

    def __init__(self, runner: Runner, tokenizer: Tokenizer) -> None:
        self._runner = runner
        self._tokenizer = tokenizer

    async def health(self, traffic: Runner) -> dict[str, Any]:
        """How it went; busy, where only ``traffic`` gets tokens.

        Raises:
            UnavailableError: no token came in time.
        """
        before = traffic.num_outputs
        sampling = SamplingParams(max_tokens=_HEALTH_TOKENS, temperature=0.0, ignore_eos=True)
        request = GenerateRequest(self._tokenizer.encode("Health"), sampling)
        started = time.perf_counter()
        try:
            async with asyncio.timeout(HEALTH_TIMEOUT_S):
                (result,) = await results_of(self._runner.rounds([request]))
        except (TimeoutError, NoRoomError):
            if traffic.num_outputs > before:
                return {"status": "busy"}
            raise UnavailableError(f"no token came within {HEALTH_TIMEOUT_S:.0f} s") from None
        return {
            "status": "ok",
            "chain": list(result.chain),
            "num_tokens": len(result.token_ids),
            "time_ms": (time.perf_counter() - started) * 1e3,
        }
