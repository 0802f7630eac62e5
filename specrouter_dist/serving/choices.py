"""The choices of one request, each a generation of its own, as one stream of rounds."""

import asyncio
from array import array
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import replace

from specrouter_dist.errors import UnavailableError
from specrouter_dist.links.control import Failed, Output
from specrouter_dist.serving.client import Chunk, Client, Generation, to_error
from specrouter_dist.serving.results import GenerateRequest, GenerateResult, GenerationMetrics
from specrouter_dist.speculation.messages import TOKEN_TYPECODE, TokenArray
from specrouter_dist.text.tokenizer import Tokenizer

_Inbox = asyncio.Queue[tuple[int, float, Output | Failed]]
"""Which choice, when, and what."""
Rounds = AsyncGenerator[tuple[int, Chunk], None]
"""What came, each with the index of its choice."""
OnEnd = Callable[[GenerateRequest, GenerateResult | None], None]
"""Told of a choice and its result; None: it has failed, or nobody waits for it any more."""
_NO_TOKENS: TokenArray = array(TOKEN_TYPECODE)


class Runner:
    """Runs choices on a target, for an event loop.

    Args:
        client: the way to the target.
        tokenizer: the target's.
        eos_ids: ids that end an output.
        on_end: told of every choice that ends, on the loop.
    """

    def __init__(
        self,
        client: Client,
        tokenizer: Tokenizer,
        eos_ids: frozenset[int],
        on_end: OnEnd | None = None,
    ) -> None:
        self._client = client
        self._tokenizer = tokenizer
        self._eos_ids = eos_ids
        self._on_end = on_end or _tell_nobody
        self._open: set[Generation] = set()
        self.num_outputs = 0
        """Messages with what was computed, of all requests so far."""

    @property
    def num_running(self) -> int:
        """Choices that have tokens and want more."""
        return sum(generation.has_begun for generation in self._open)

    @property
    def num_waiting(self) -> int:
        """Choices without a token yet."""
        return len(self._open) - self.num_running

    async def rounds(
        self, choices: Sequence[GenerateRequest], shown: Callable[[Chunk], Chunk] | None = None
    ) -> Rounds:
        """The target's rounds as they come.

        Whoever leaves early frees every level of every choice; so does one choice that fails.

        Args:
            choices: run at once.
            shown: what of a round is told, and counted; None: all.

        Raises:
            SpecRouterError: as the target's worker reported it.
        """
        inbox: _Inbox = asyncio.Queue()
        generations = [
            Generation(choice, self._tokenizer, self._eos_ids, choice.plan) for choice in choices
        ]
        running: set[int] = set()
        unended = dict(enumerate(choices))
        self._open.update(generations)
        try:
            for index, generation in enumerate(generations):
                self._client.submit(generation.submit, _receiver(inbox, index, generation.clock))
                running.add(index)
            while running:
                index, arrived, message = await inbox.get()
                if isinstance(message, Failed) or message.finish_reason is not None:
                    running.remove(index)
                output = _output_of(message, f"choice {index}: " if len(choices) > 1 else "")
                self.num_outputs += 1
                chunk = generations[index].on_output(output, arrived)
                if shown is not None:
                    chunk = shown(chunk)
                if chunk.result is not None:
                    self._open.remove(generations[index])
                    self._on_end(unended.pop(index), chunk.result)
                yield index, chunk
        finally:
            for index in running:
                self._client.cancel(generations[index].submit.request)
            self._open.difference_update(generations)
            for choice in unended.values():
                self._on_end(choice, None)


async def without_output(choices: Sequence[GenerateRequest], target: str) -> Rounds:
    """One empty round for each choice: their prompts are all that is wanted."""
    for index, choice in enumerate(choices):
        metrics = GenerationMetrics(0.0, 0.0, None)
        seed = choice.sampling.seed
        result = GenerateResult("", _NO_TOKENS, seed, "length", (target,), metrics)
        yield index, Chunk("", _NO_TOKENS, (), result)


def without_tokens(chunk: Chunk) -> Chunk:
    """The chunk without what was generated: of the prompt, its log-probabilities alone."""
    result = chunk.result
    if result is not None:
        result = replace(result, text="", token_ids=_NO_TOKENS, finish_reason="length", logprobs=())
    return replace(chunk, text="", tokens=_NO_TOKENS, logprobs=(), result=result)


async def results_of(rounds: Rounds) -> list[GenerateResult]:
    """The whole outputs, in the order of the choices; raises as the rounds do."""
    found: dict[int, GenerateResult] = {}
    async with aclosing(rounds):
        async for index, chunk in rounds:
            if chunk.result is not None:
                found[index] = chunk.result
    return [found[index] for index in range(len(found))]


def _tell_nobody(_: GenerateRequest, __: GenerateResult | None) -> None:
    pass


def _receiver(
    inbox: _Inbox, index: int, clock: Callable[[], float]
) -> Callable[[Output | Failed], None]:
    """Puts a choice's messages into the inbox, which belongs to the running loop."""
    loop = asyncio.get_running_loop()

    def receive(message: Output | Failed) -> None:
        # On the client's thread, so the time is that of arrival.
        arrived = clock()
        try:
            loop.call_soon_threadsafe(inbox.put_nowait, (index, arrived, message))
        except RuntimeError:
            # The service has ended before its requests; nobody waits for this one.
            if not loop.is_closed():
                raise

    return receive


def _output_of(message: Output | Failed, where: str) -> Output:
    """The message, if it is none of failure; ``where`` begins the error's line."""
    if isinstance(message, Failed):
        raise to_error(replace(message, message=where + message.message))
    if message.finish_reason == "cancelled":
        raise UnavailableError(f"{where}the request was cancelled by the target")
    return message
