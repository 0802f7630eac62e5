"""Runs the rows of a batch on the service's core: many at a time, answers in their order."""

import asyncio
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from specrouter_dist.batch.keys import Settings, key_of
from specrouter_dist.batch.lines import Line
from specrouter_dist.batch.ordering import ReorderBuffer
from specrouter_dist.batch.output import answered, failed
from specrouter_dist.batch.rows import CHAT, Row, parse_row
from specrouter_dist.errors import NoRoomError, RequestError, SpecRouterError, UnavailableError
from specrouter_dist.serving.job import Job
from specrouter_dist.serving.openai_errors import describe_error
from specrouter_dist.serving.openai_service import OpenAIService
from specrouter_dist.serving.results import GenerateResult

logger = logging.getLogger(__name__)

_AHEAD = 8
"""Rows begun and not yet written, per row that runs: one long row must not hold up the others."""
_ROOM_PAUSES_S = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
"""Between the attempts of a row for which the pool has no room; then it has failed."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a row."""

    line_number: int
    content: bytes
    """The line to be written."""
    num_tokens: int = 0
    problem: str | None = None
    """Why it has failed."""


class BatchRunner:
    """Runs rows.

    Args:
        service: of the pool.
        settings: of the batch.
        write: takes the outcomes, in the order of the rows.
        concurrency: how many rows run at a time.
    """

    def __init__(
        self,
        service: OpenAIService,
        settings: Settings,
        write: Callable[[Outcome], None],
        *,
        concurrency: int,
    ) -> None:
        self._service = service
        self._settings = settings
        self._digest = settings.digest()
        self._write = write
        self._concurrency = concurrency

    async def run(self, lines: Iterator[Line], *, start: int) -> None:
        """Until all are written. Cancelling the call cancels what runs.

        Args:
            lines: no more of them are held than may be begun.
            start: index of the first.

        Raises:
            UnavailableError: the pool is lost; the rows not written have not failed.
        """
        buffer: ReorderBuffer[Outcome] = ReorderBuffer(start)
        room = asyncio.Semaphore(_AHEAD * self._concurrency)

        async def work() -> None:
            while True:
                await room.acquire()
                line = next(lines, None)
                if line is None:
                    room.release()
                    return
                for outcome in buffer.put(line.index, await self._outcome(line)):
                    self._write(outcome)
                    room.release()

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(self._concurrency):
                    group.create_task(work())
        except ExceptionGroup as problems:
            # The first is why the others were cancelled.
            raise problems.exceptions[0] from None

    async def _outcome(self, line: Line) -> Outcome:
        settings = self._settings
        row = parse_row(line, seed=settings.seed, defaults=settings.defaults)
        key = key_of(line, self._digest)
        try:
            answer, num_tokens = await self._answer(row)
        except UnavailableError:
            raise
        except SpecRouterError as problem:
            status_code, body = describe_error(problem)
            if status_code == 500:
                logger.warning("line %d has failed", line.number, exc_info=problem)
            content = failed(
                row,
                key,
                line_number=line.number,
                status_code=status_code,
                error=body["error"],
            )
            return Outcome(line.number, content, problem=str(problem))
        return Outcome(line.number, answered(row, key, answer), num_tokens)

    async def _answer(self, row: Row) -> tuple[dict[str, Any], int]:
        """The JSON of the answer, and its output tokens."""
        if row.problem is not None:
            raise row.problem
        body = json.dumps(row.body).encode()
        job = await (
            self._service.chat(body) if row.url == CHAT else self._service.completion(body)
        )
        if row.carried is not None and len(job.choices) > 1:
            raise RequestError(
                f"a plain row has one output, got {len(job.choices)} choices; write OpenAI's "
                "'custom_id', 'method', 'url' and 'body' for more",
                field="n",
            )
        results = await self._results(job)
        whole = job.answer.whole(results)
        num_tokens = sum(len(result.token_ids) for result in results)
        if row.carried is None:
            return whole, num_tokens
        return _plain(results[0], whole["choices"][0]), num_tokens

    async def _results(self, job: Job) -> Sequence[GenerateResult]:
        for pause_s in _ROOM_PAUSES_S:
            try:
                return await self._service.results(job)
            except NoRoomError:
                await asyncio.sleep(pause_s)
        return await self._service.results(job)


def _plain(result: GenerateResult, choice: dict[str, Any]) -> dict[str, Any]:
    """The result's JSON, with what only an endpoint's answer has: an echo, log-probabilities."""
    plain = result.to_json()
    plain["text"] = choice.get("text", result.text)
    if choice["logprobs"] is not None:
        plain["logprobs"] = choice["logprobs"]
    return plain
