"""The methods of protos/specrouter/v1/service.proto, and gRPC's own health protocol, over an
:class:`OpenAIService`. No server: whoever has one calls them with its context.

Cancelling a call cancels its request; the server does so when the client leaves or its deadline has
passed.
"""

import asyncio
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from functools import partial
from typing import Any, Protocol

import grpc
from google.protobuf.json_format import ParseDict
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2

from specrouter_dist.errors import (
    AuthenticationError,
    DeadlineError,
    InputError,
    NoRoomError,
    NotFoundError,
    UnavailableError,
)
from specrouter_dist.serving._proto import service_pb2 as pb
from specrouter_dist.serving.api_keys import bearer
from specrouter_dist.serving.calls import REQUEST_ID_HEADER, TRACE_HEADER, Call
from specrouter_dist.serving.grpc_fields import (
    FINISH_REASONS,
    choice_of,
    fields_of,
    logprobs_of,
    metrics_of,
    parse_message,
    request_of,
    tiers_of,
)
from specrouter_dist.serving.job import Job
from specrouter_dist.serving.json_body import looked_at
from specrouter_dist.serving.openai_service import OpenAIService
from specrouter_dist.serving.router_http import Explain, Explaining
from specrouter_dist.serving.tokenizing import DetokenizeRequest, TokenizeRequest

SERVICE = "specrouter.v1.SpecRouter"
_REQUEST_ID = REQUEST_ID_HEADER.lower()


class Context(Protocol):
    """What is needed of a server's context."""

    def invocation_metadata(self) -> Sequence[tuple[str, str | bytes]]:
        """What the client has sent beside the message."""
        ...

    def set_trailing_metadata(self, trailing_metadata: Any) -> None:
        """What goes back beside the answer."""
        ...

    def set_code(self, code: grpc.StatusCode) -> None:
        """How the call ends."""
        ...

    def set_details(self, details: str) -> None:
        """Why."""
        ...


class GrpcService:
    """Every method raises what went wrong, once it has told the context.

    Args:
        service: of the pool.
        explain: asks the router.
    """

    def __init__(self, service: OpenAIService, explain: Explain) -> None:
        self._service = service
        self._explaining = Explaining(explain)

    async def generate(self, message: pb.GenerateRequest, context: Context) -> pb.GenerateResponse:
        """The whole answer."""
        with self._call("Generate", context) as call:
            job = await self._job(message, call, stream=False)
            results = await self._service.results(job)
            texts = [job.answer.text_before(index) + r.text for index, r in enumerate(results)]
            return pb.GenerateResponse(
                id=job.answer.head.id,
                created=job.answer.head.created,
                model=job.answer.head.model,
                choices=[
                    choice_of(index, text, result)
                    for index, (text, result) in enumerate(zip(texts, results, strict=True))
                ],
                usage=_usage(job, sum(len(result.token_ids) for result in results)),
                lossy=job.answer.head.is_lossy,
            )

    async def generate_stream(
        self, message: pb.GenerateRequest, context: Context
    ) -> AsyncGenerator[pb.GenerateStreamResponse, None]:
        """One message per round of a choice."""
        with self._call("GenerateStream", context) as call:
            job = await self._job(message, call, stream=True)
            head, num_tokens, num_running = job.answer.head, 0, len(job.choices)
            async with aclosing(self._service.rounds(job)) as rounds:
                async for index, chunk in rounds:
                    num_tokens += len(chunk.tokens)
                    grown = pb.GenerateStreamResponse(
                        id=head.id,
                        index=index,
                        text=job.answer.text_before(index) + chunk.text,
                        token_ids=chunk.tokens,
                        logprobs=logprobs_of(chunk.logprobs),
                        prompt_logprobs=logprobs_of(chunk.prompt_logprobs),
                        seed=head.seeds[index],
                        lossy=head.is_lossy,
                    )
                    if chunk.result is not None:
                        grown.finish_reason = FINISH_REASONS[chunk.result.finish_reason]
                        grown.metrics.CopyFrom(metrics_of(chunk.result))
                        if (tiers := tiers_of(chunk.result)) is not None:
                            grown.tiers.CopyFrom(tiers)
                        num_running -= 1
                        if not num_running:
                            grown.usage.CopyFrom(_usage(job, num_tokens))
                    yield grown

    async def tokenize(self, message: pb.TokenizeRequest, context: Context) -> pb.TokenizeResponse:
        """The ids of a text or a conversation."""
        with self._call("Tokenize", context), self._taken(message) as num_bytes:
            parse = partial(parse_message, TokenizeRequest, message)
            request = await looked_at(num_bytes, parse)
            answer = await asyncio.to_thread(self._service.tokenizing.tokenize, request)
            return ParseDict(answer, pb.TokenizeResponse())

    async def detokenize(
        self, message: pb.DetokenizeRequest, context: Context
    ) -> pb.DetokenizeResponse:
        """The text of ids."""
        with self._call("Detokenize", context), self._taken(message) as num_bytes:
            # An empty list is not among the fields that are set.
            parse = partial(parse_message, DetokenizeRequest, message, tokens=[])
            request = await looked_at(num_bytes, parse)
            answer = await asyncio.to_thread(self._service.tokenizing.detokenize, request)
            return ParseDict(answer, pb.DetokenizeResponse())

    async def list_models(
        self, message: pb.ListModelsRequest, context: Context
    ) -> pb.ListModelsResponse:
        """The one model there is."""
        with self._call("ListModels", context):
            # There are none to be set.
            fields_of(message)
            card = ParseDict(self._service.model_card(), pb.Model(), ignore_unknown_fields=True)
            return pb.ListModelsResponse(models=[card])

    async def explain_router(
        self, message: pb.ExplainRouterRequest, context: Context
    ) -> pb.ExplainRouterResponse:
        """What the router knows and has decided."""
        with self._call("ExplainRouter", context):
            # There are none to be set.
            fields_of(message)
            router = await self._explaining.answer()
            return ParseDict({"router": router}, pb.ExplainRouterResponse())

    async def check(
        self, message: health_pb2.HealthCheckRequest, context: Context
    ) -> health_pb2.HealthCheckResponse:
        """Whether real tokens come through the chain."""
        with self._call("Check", context):
            if message.service not in ("", SERVICE):
                raise NotFoundError(
                    f"service: no service {message.service!r}; accepted: {SERVICE}", field="service"
                )
            return await self._health()

    async def list_health(
        self, _: health_pb2.HealthListRequest, context: Context
    ) -> health_pb2.HealthListResponse:
        """The same by service."""
        with self._call("List", context):
            return health_pb2.HealthListResponse(statuses={SERVICE: await self._health()})

    async def _job(self, message: pb.GenerateRequest, call: Call, *, stream: bool) -> Job:
        with self._taken(message) as num_bytes:
            request = await looked_at(num_bytes, partial(request_of, message, stream=stream))
            return await self._service.job(request, call)

    @contextmanager
    def _taken(self, message: Message) -> Iterator[int]:
        """Its bytes, which count until all has been made of them."""
        num_bytes = message.ByteSize()
        with self._service.admission.intake.taking() as take:
            take(num_bytes)
            yield num_bytes

    async def _health(self) -> health_pb2.HealthCheckResponse:
        try:
            await self._service.health()
        except UnavailableError:
            return health_pb2.HealthCheckResponse(status="NOT_SERVING")
        return health_pb2.HealthCheckResponse(status="SERVING")

    @contextmanager
    def _call(self, kind: str, context: Context) -> Iterator[Call]:
        """The call of a client; what it fails with becomes its status."""
        metadata = dict(context.invocation_metadata())
        call = Call(kind)
        status = grpc.StatusCode.CANCELLED
        try:
            call = Call.arrived(kind, _text(metadata, _REQUEST_ID), _text(metadata, TRACE_HEADER))
            if kind not in _OPEN:
                secret = bearer(_text(metadata, "authorization"))
                call.account = self._service.admission.account(secret)
            context.set_trailing_metadata([(_REQUEST_ID, call.id)])
            yield call
            status = grpc.StatusCode.OK
        except Exception as problem:
            call.error = type(problem).__name__
            status, details = describe_status(problem)
            context.set_code(status)
            context.set_details(details)
            raise
        finally:
            if kind not in _ONLY_LOOKING:
                call.end(status.name)


_OPEN = ("Check", "List")
"""Load balancers and kubelets have no keys."""
_ONLY_LOOKING = ("Check", "ExplainRouter", "List", "ListModels")
"""Not logged, like HTTP's GET."""


def describe_status(problem: Exception) -> tuple[grpc.StatusCode, str]:
    """The status of an error, and what it says."""
    match problem:
        case NotFoundError():
            return grpc.StatusCode.NOT_FOUND, str(problem)
        case InputError():
            return grpc.StatusCode.INVALID_ARGUMENT, str(problem)
        case AuthenticationError():
            return grpc.StatusCode.UNAUTHENTICATED, str(problem)
        case DeadlineError():
            return grpc.StatusCode.DEADLINE_EXCEEDED, str(problem)
        case NoRoomError():
            return grpc.StatusCode.RESOURCE_EXHAUSTED, str(problem)
        case UnavailableError():
            return grpc.StatusCode.UNAVAILABLE, str(problem)
        case _:
            text = f"{type(problem).__name__}: the server has failed; its log says more"
            return grpc.StatusCode.INTERNAL, text


def _text(metadata: Mapping[str, str | bytes], key: str) -> str | None:
    value = metadata.get(key)
    return value.decode() if isinstance(value, bytes) else value


def _usage(job: Job, num_tokens: int) -> pb.Usage:
    return pb.Usage(**job.answer.usage(num_tokens))
