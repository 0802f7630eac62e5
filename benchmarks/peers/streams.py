"""Streamed completions over HTTP, so many at a time, and when their parts came."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from benchmarks.events import parse_event

_TIMEOUT_S = 300.0


@dataclass(frozen=True, slots=True)
class Streamed:
    """One completion."""

    text: str
    num_tokens: int
    """As the server's usage counts them."""
    time_to_first_token_ms: float
    total_ms: float


@dataclass(frozen=True, slots=True)
class Ask:
    """What every request of an arm says.

    ``url``: of the API's root, with its ``/v1``.
    """

    url: str
    model: str
    max_tokens: int
    temperature: float
    ignore_eos: bool
    fields: Mapping[str, Any]

    def body(self, prompt_ids: Sequence[int], seed: int) -> dict[str, Any]:
        """Of one request."""
        return {
            "model": self.model,
            "prompt": list(prompt_ids),
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
            "seed": seed,
            "ignore_eos": self.ignore_eos,
            "stream": True,
            "stream_options": {"include_usage": True},
            **self.fields,
        }


def ask_all(
    ask: Ask,
    prompts: Sequence[Sequence[int]],
    concurrency: int,
    transport: httpx.AsyncBaseTransport | None = None,
) -> list[Streamed]:
    """All prompts, each with a seed of its own; a request begins as soon as another has ended.

    Args:
        transport: to an application in this process; None: over the network.

    Raises:
        RuntimeError: the server refuses a request, or fails in the middle of its stream.
    """
    return asyncio.run(_ask_all(ask, prompts, concurrency, transport))


async def _ask_all(
    ask: Ask,
    prompts: Sequence[Sequence[int]],
    concurrency: int,
    transport: httpx.AsyncBaseTransport | None,
) -> list[Streamed]:
    limits = httpx.Limits(max_connections=concurrency, max_keepalive_connections=concurrency)
    turns = asyncio.Semaphore(concurrency)
    async with httpx.AsyncClient(limits=limits, timeout=_TIMEOUT_S, transport=transport) as client:

        async def one(seed: int, ids: Sequence[int]) -> Streamed:
            async with turns:
                return await _ask_one(client, ask, ask.body(ids, seed))

        return await asyncio.gather(*(one(seed, ids) for seed, ids in enumerate(prompts)))


async def _ask_one(client: httpx.AsyncClient, ask: Ask, body: Mapping[str, Any]) -> Streamed:
    first_s: float | None = None
    text: list[str] = []
    num_tokens = 0
    started_s = time.perf_counter()
    async with client.stream("POST", f"{ask.url}/completions", json=body) as answer:
        if answer.status_code != httpx.codes.OK:
            raise RuntimeError(f"{answer.status_code}: {(await answer.aread()).decode()}")
        async for line in answer.aiter_lines():
            if (event := parse_event(line)) is None:
                continue
            if event["choices"]:
                first_s = first_s or time.perf_counter()
                text.append(event["choices"][0]["text"])
            if event.get("usage"):
                num_tokens = event["usage"]["completion_tokens"]
    ended_s = time.perf_counter()
    if first_s is None or not num_tokens:
        raise RuntimeError("a stream without tokens")
    return Streamed(
        "".join(text), num_tokens, 1e3 * (first_s - started_s), 1e3 * (ended_s - started_s)
    )
