"""The core of the OpenAI-compatible service: a body in, JSON objects out. No HTTP, no Ray."""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing
from typing import Any

from specrouter_dist.config import ModelMember
from specrouter_dist.errors import NotFoundError
from specrouter_dist.pools.checks import PoolReport
from specrouter_dist.pools.loading import Pool, local_directory
from specrouter_dist.routing.traffic import Traffic
from specrouter_dist.serving.admission import Admission
from specrouter_dist.serving.calls import Call
from specrouter_dist.serving.choices import (
    Rounds,
    Runner,
    results_of,
    without_output,
    without_tokens,
)
from specrouter_dist.serving.client import Client
from specrouter_dist.serving.deadlines import Deadline
from specrouter_dist.serving.exposition import Families
from specrouter_dist.serving.job import Job
from specrouter_dist.serving.jobs import Jobs
from specrouter_dist.serving.json_body import read_body
from specrouter_dist.serving.metrics import ServiceMetrics
from specrouter_dist.serving.openai_schema import ChatRequest, CompletionRequest
from specrouter_dist.serving.probing import Probe
from specrouter_dist.serving.results import GenerateResult
from specrouter_dist.serving.settings import UNLIMITED
from specrouter_dist.serving.speculative import Planning, Speculating
from specrouter_dist.serving.tasks import Tasks
from specrouter_dist.serving.tokenizing import Tokenizing
from specrouter_dist.text.tokenizer import Tokenizer


class OpenAIService:
    """Requests of OpenAI's clients to one pool.

    Args:
        client: the way to the target.
        tokenizer: the target's.
        report: of the pool's checks.
        pool: the pool that runs.
        router: makes plans for requests that say how to speculate.
        admission: lets requests in; None: everybody, at once.
    """

    def __init__(
        self,
        client: Client,
        tokenizer: Tokenizer,
        report: PoolReport,
        pool: Pool,
        router: Planning,
        admission: Admission | None = None,
    ) -> None:
        self.admission = admission or Admission(UNLIMITED)
        self._tasks = tasks = Tasks.of(pool)
        self._metrics = ServiceMetrics(pool.config.name, are_tasks_told=tasks.are_told)
        self._runner = Runner(client, tokenizer, report.eos_ids, self._metrics.on_end)
        self._probe = Probe(Runner(client, tokenizer, report.eos_ids), tokenizer)
        self._pool = pool
        self._context_tokens = report.member(pool.config.target.name).context_tokens
        self.tokenizing = Tokenizing(
            tokenizer, report.num_ids, self._context_tokens, self.check_model
        )
        allows_lossy = self.admission.allows_lossy
        self._speculating = Speculating(pool, router, allows_lossy=allows_lossy)
        self._jobs = Jobs(self.model, tokenizer, self.tokenizing, self._speculating, tasks)
        self._started = int(time.time())

    # -- models ----------------------------------------------------------------------------------

    @property
    def model(self) -> str:
        """Name of the one model there is: the pool's."""
        return self._pool.config.name

    def model_card(self) -> dict[str, Any]:
        """The model as ``/v1/models`` lists it; ``root`` says where its tokenizer is found."""
        target = self._pool.config.target
        directory = local_directory(self._pool.file, target.model)
        return {
            "id": self.model,
            "object": "model",
            "created": self._started,
            "owned_by": "specrouter",
            "root": str(directory or target.model),
            "max_model_len": self._context_tokens,
            "members": [
                {"name": member.name, "role": member.role, "model": member.model}
                if isinstance(member, ModelMember)
                else {"name": member.name, "role": member.role, "model": None}
                for member in self._pool.config.members
            ],
        }

    def check_model(self, name: str | None) -> None:
        """None stands for the one model there is.

        Raises:
            NotFoundError: another model.
        """
        if name not in (None, self.model):
            raise NotFoundError(f"model: no model {name!r}; accepted: {self.model}", field="model")

    # -- requests --------------------------------------------------------------------------------

    async def completion(self, body: bytes, call: Call | None = None) -> Job:
        """The job of a ``/v1/completions`` body; raises as :meth:`job`."""
        return await self.job(await read_body(CompletionRequest, body), call)

    async def chat(self, body: bytes, call: Call | None = None) -> Job:
        """The job of a ``/v1/chat/completions`` body; raises as :meth:`job`."""
        return await self.job(await read_body(ChatRequest, body), call)

    async def job(self, request: CompletionRequest | ChatRequest, call: Call | None = None) -> Job:
        """The job of a request, whatever it came as.

        Args:
            request: of valid fields.
            call: what it came with; None: nobody has called.

        Raises:
            InputError: names the field that is wrong.
            UnavailableError: nobody can plan now for a request that says how to speculate.
        """
        # It runs from now on, and is looked at when the job is whole: what is wrong with a request
        # is said first, however little time it has.
        deadline = Deadline(self.admission.timeout_s(request.timeout))
        job = await asyncio.to_thread(self._jobs.of, request, call or Call(), deadline)
        traffic = Traffic.of(job.choices[0].sampling)
        plan = await self._speculating.plan(request.speculative, traffic)
        return job if plan is None else job.planned(plan)

    async def whole(self, job: Job) -> dict[str, Any]:
        """The answer, once it is complete. Cancelling the call cancels the request.

        Raises:
            SpecRouterError: as the target's worker reported it, or not admitted, or not in time.
        """
        return job.answer.whole(await self.results(job))

    async def results(self, job: Job) -> list[GenerateResult]:
        """The outputs of its choices, once they are complete; as :meth:`whole` otherwise."""
        return await results_of(self.rounds(job))

    async def events(self, job: Job) -> AsyncGenerator[dict[str, Any], None]:
        """The answer as it comes: one object per round of a choice. Closing it early cancels all.

        Raises:
            SpecRouterError: as the target's worker reported it, also in the middle.
        """
        num_tokens = 0
        results: dict[int, GenerateResult] = {}
        async with aclosing(self.rounds(job)) as rounds:
            async for index, chunk in rounds:
                num_tokens += len(chunk.tokens)
                event = job.answer.event(index, chunk)
                if job.includes_usage:
                    always = job.includes_usage_always
                    event["usage"] = job.answer.usage(num_tokens) if always else None
                yield event
                if chunk.result is not None:
                    results[index] = chunk.result
        if job.includes_usage:
            yield job.answer.last_event([results[index] for index in sorted(results)])

    async def rounds(self, job: Job) -> Rounds:
        """The target's rounds as they come. Closing it early cancels all.

        Raises:
            SpecRouterError: as the target's worker reported it, also in the middle.
        """
        try:
            async with aclosing(self._admitted_rounds(job)) as rounds:
                async for index, chunk in rounds:
                    if chunk.result is not None:
                        job.call.results.append(chunk.result)
                    yield index, chunk
        except Exception as problem:
            job.call.error = type(problem).__name__
            raise

    def metrics(self) -> Families:
        """What has ended so far and how much runs."""
        runner = self._runner
        num_waiting = runner.num_waiting + self.admission.num_queued
        return self._metrics.families(num_running=runner.num_running, num_waiting=num_waiting)

    async def health(self) -> dict[str, Any]:
        """Generates real tokens with the router's chain.

        A pool so busy that the probe has to wait is healthy as long as others get tokens.

        Raises:
            UnavailableError: no token came in time.
        """
        tasks = {"tasks": self._tasks.to_json()}
        return {"model": self.model, **tasks, **await self._probe.health(self._runner)}

    async def _admitted_rounds(self, job: Job) -> Rounds:
        """The rounds once the job is admitted, until its deadline."""
        async with AsyncExitStack() as stack:
            async with job.deadline.kept():
                admitted = self.admission.admit(job.call.account, job.need)
                ticket = await stack.enter_async_context(admitted)
            rounds = await stack.enter_async_context(aclosing(self._begin(job)))
            while True:
                async with job.deadline.kept():
                    came = await anext(rounds, None)
                if came is None:
                    return
                ticket.num_tokens += len(came[1].tokens)
                yield came

    def _begin(self, job: Job) -> Rounds:
        if not job.is_echo_alone:
            return self._runner.rounds(job.choices)
        if job.choices[0].sampling.prompt_logprobs is None:
            return without_output(job.choices, self._pool.config.target.name)
        return self._runner.rounds(job.choices, without_tokens)
