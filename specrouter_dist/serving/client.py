"""From requests to results: what every front (command line, HTTP, batch) does with a target.

A :class:`Client` carries messages to a target's worker and back. :class:`Generation` follows one
request: it turns the target's rounds into text and, at the end, into a result.
"""

import queue
import secrets
import time
from array import array
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from specrouter_dist import errors
from specrouter_dist.config import Plan
from specrouter_dist.engine.interface import TokenLogprobs
from specrouter_dist.errors import SpecRouterError
from specrouter_dist.links.control import Failed, FinishReason, Output, Submit
from specrouter_dist.routing.outline import Outline
from specrouter_dist.serving.results import (
    GenerateRequest,
    GenerateResult,
    GenerationMetrics,
    LevelMetrics,
    PlanUse,
    SpeculationMetrics,
    TierMetrics,
)
from specrouter_dist.speculation.messages import TOKEN_TYPECODE, TokenArray
from specrouter_dist.text.stops import OutputText
from specrouter_dist.text.tokenizer import Tokenizer

Receiver = Callable[[Output | Failed], None]
"""Takes a request's messages, in order; called on the client's thread."""


class Client(Protocol):
    """Carries requests to the target's worker."""

    def submit(self, submit: Submit, receive: Receiver) -> None:
        """Sends the request; its messages go to ``receive`` until the last one."""
        ...

    def cancel(self, request: int) -> None:
        """Frees every level of the request; its last message says that it is over."""
        ...


@dataclass(frozen=True, slots=True)
class Chunk:
    """What one round of the target added to an output."""

    text: str
    tokens: TokenArray
    logprobs: tuple[TokenLogprobs, ...]
    result: GenerateResult | None
    """The whole output, with the last chunk."""
    prompt_logprobs: tuple[TokenLogprobs, ...] = ()
    """Of the prompt's next tokens, from its second on."""


def to_error(message: Failed) -> SpecRouterError:
    """The error that a worker reported, as it was raised there."""
    kind = getattr(errors, message.kind, SpecRouterError)
    error: SpecRouterError = kind(message.message)
    return error


class Generation:
    """One request's output as it comes."""

    def __init__(
        self,
        request: GenerateRequest,
        tokenizer: Tokenizer,
        eos_ids: frozenset[int],
        plan: Plan | None,
        *,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.clock = clock
        sampling = request.sampling
        stop_ids = set(sampling.stop_token_ids)
        if not sampling.ignore_eos:
            stop_ids |= eos_ids
        self.submit = Submit(
            request=secrets.randbits(63),
            prompt=request.prompt_ids,
            sampling=sampling.model_copy(update={"stop_token_ids": tuple(sorted(stop_ids))}),
            plan=plan,
            output=array(TOKEN_TYPECODE),
            task=request.task,
            name=request.name,
            trace=request.trace,
            lossy=request.lossy,
        )
        self._started = clock()
        self._first: float | None = None
        self._output_text = OutputText(
            tokenizer.detokenizer(), sampling.stop, min_tokens=sampling.min_tokens
        )
        self._texts: list[str] = []
        self._tokens: TokenArray = array(TOKEN_TYPECODE)
        self._logprobs: list[TokenLogprobs] = []
        self._prompt_logprobs: list[TokenLogprobs] = []

    @property
    def has_begun(self) -> bool:
        """Whether a token has come."""
        return self._first is not None

    def on_output(self, output: Output, now: float) -> Chunk:
        """Takes the target's next round, which arrived at ``now`` by the generation's clock."""
        if self._first is None and output.tokens:
            self._first = now
        text = self._output_text.push(output.tokens).text if output.tokens else ""
        if output.finish_reason is not None:
            text += self._output_text.finish()
        self._texts.append(text)
        self._tokens.extend(output.tokens)
        self._logprobs.extend(output.logprobs)
        self._prompt_logprobs.extend(output.prompt_logprobs)
        result = None
        if output.finish_reason is not None:
            result = self._result(output.finish_reason, output.stats or {}, now)
        return Chunk(text, output.tokens, output.logprobs, result, output.prompt_logprobs)

    def _result(self, reason: FinishReason, stats: dict[str, Any], now: float) -> GenerateResult:
        first = now if self._first is None else self._first
        num_tokens = len(self._tokens)
        levels = tuple(LevelMetrics(*level) for level in stats["levels"])
        return GenerateResult(
            text="".join(self._texts),
            token_ids=self._tokens,
            seed=self.submit.sampling.seed,
            finish_reason=reason,
            chain=tuple(stats["chain"]),
            metrics=GenerationMetrics(
                time_to_first_token_ms=(first - self._started) * 1e3,
                generation_time_ms=(now - first) * 1e3,
                device_ms_per_token=stats["device_us"] / 1e3 / num_tokens if num_tokens else None,
                speculation=SpeculationMetrics(stats["histograms"]),
                levels=levels,
                num_rounds=stats["num_rounds"],
                queue_time_ms=stats["queued_us"] / 1e3,
                prefill_time_ms=stats["prefill_us"] / 1e3,
                plans=tuple(PlanUse(after, Outline(*plan)) for after, plan in stats["plans"]),
                task=self.submit.task,
            ),
            logprobs=tuple(self._logprobs),
            prompt_logprobs=tuple(self._prompt_logprobs),
            tiers=TierMetrics(**stats["tiers"]) if "tiers" in stats else None,
        )


def run_in_order(
    client: Client, generations: Sequence[Callable[[], Generation]], *, concurrency: int
) -> Iterator[GenerateResult]:
    """Runs the generations, ``concurrency`` at a time, and yields their results in order.

    Leaving the iterator early cancels what still runs.

    Raises:
        SpecRouterError: of the first request that failed.
    """
    running: deque[tuple[Generation, _Inbox]] = deque()
    waiting = deque(generations)
    try:
        while waiting or running:
            while waiting and len(running) < concurrency:
                generation = waiting.popleft()()
                inbox = _Inbox(generation.clock)
                client.submit(generation.submit, inbox.put)
                running.append((generation, inbox))
            generation, inbox = running[0]
            result = inbox.result_of(generation)
            running.popleft()
            yield result
    finally:
        for generation, _ in running:
            client.cancel(generation.submit.request)


class _Inbox:
    """Messages with the time of their arrival, from the client's thread to the caller's."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._queue: queue.SimpleQueue[tuple[float, Output | Failed]] = queue.SimpleQueue()

    def put(self, message: Output | Failed) -> None:
        self._queue.put((self._clock(), message))

    def result_of(self, generation: Generation) -> GenerateResult:
        while True:
            arrived, message = self._queue.get()
            if isinstance(message, Failed):
                raise to_error(message)
            result = generation.on_output(message, arrived).result
            if result is not None:
                return result
