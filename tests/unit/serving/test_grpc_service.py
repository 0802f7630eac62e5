"""The gRPC methods over a target that the tests script. Serve's part is an integration test's."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2

from specrouter_dist.errors import (
    AuthenticationError,
    NoRoomError,
    RateLimitError,
    RequestError,
    SpecRouterError,
    UnavailableError,
)
from specrouter_dist.links.control import Failed
from specrouter_dist.pools.checks import PoolReport
from specrouter_dist.pools.loading import Pool
from specrouter_dist.serving._proto import service_pb2 as pb
from specrouter_dist.serving.admission import Admission
from specrouter_dist.serving.api_keys import load_keys
from specrouter_dist.serving.grpc_fields import request_of
from specrouter_dist.serving.grpc_service import GrpcService
from specrouter_dist.serving.openai_schema import (
    ChatRequest,
    CompletionRequest,
    GenerationRequest,
)
from specrouter_dist.serving.openai_service import OpenAIService
from specrouter_dist.serving.settings import KeyLimits, ServiceSettings
from specrouter_dist.text.tokenizer import Tokenizer
from tests.unit.serving.conftest import ScriptedRouter
from tests.unit.serving.scripted import ROUNDS, ScriptedClient, output

ALL = pb.GenerateRequest(
    model="tiny",
    max_tokens=7,
    min_tokens=1,
    temperature=0.3,
    top_p=0.9,
    top_k=5,
    min_p=0.1,
    seed=1 << 60,
    stop=["a", "b"],
    stop_token_ids=[3],
    ignore_eos=True,
    logit_bias={300: -1.5},
    presence_penalty=0.1,
    frequency_penalty=0.2,
    repetition_penalty=1.1,
    n=2,
    logprobs=3,
    user="me",
    timeout=9.5,
    speculative=pb.Speculation(chain=["small", "target"], num_speculative_tokens=4),
)


class Context:
    """Keeps what it is told."""

    def __init__(self, **metadata: str) -> None:
        self.metadata = [(name.replace("_", "-"), value) for name, value in metadata.items()]
        self.trailing: list[tuple[str, str]] = []
        self.code: grpc.StatusCode | None = None
        self.details = ""

    def invocation_metadata(self) -> list[tuple[str, str | bytes]]:
        return list(self.metadata)

    def set_trailing_metadata(self, trailing_metadata: Any) -> None:
        self.trailing = list(trailing_metadata)

    def set_code(self, code: grpc.StatusCode) -> None:
        self.code = code

    def set_details(self, details: str) -> None:
        self.details = details


@pytest.fixture
def methods(service: OpenAIService) -> GrpcService:
    return GrpcService(service, dict)


def prompt(**fields: Any) -> pb.GenerateRequest:
    return pb.GenerateRequest(prompt="Hello", **fields)


async def all_of(stream: AsyncGenerator[Any, None]) -> list[Any]:
    return [part async for part in stream]


@pytest.mark.parametrize("model", [CompletionRequest, ChatRequest])
def test_every_field_of_http_has_one_here(model: type[GenerationRequest]) -> None:
    message = pb.GenerateRequest()
    message.CopyFrom(ALL)
    if model is CompletionRequest:
        message.prompt, message.echo = "x", False
    else:
        message.messages.add(role="user", content="x")
    request = request_of(message, stream=True)
    assert type(request) is model
    # Of a stream's options there is nothing to choose; max_tokens has one name here.
    without = {"stream_options", "max_completion_tokens"}
    assert request.model_fields_set == set(model.model_fields) - without
    assert request.seed == 1 << 60
    assert request.logit_bias == {"300": -1.5}
    assert request.num_logprobs == 3


@pytest.mark.parametrize(
    "message",
    [
        pb.GenerateRequest(),
        pb.GenerateRequest(prompt="x", messages=[pb.ChatMessage(role="user", content="x")]),
    ],
)
def test_a_request_has_a_prompt_or_messages(message: pb.GenerateRequest) -> None:
    with pytest.raises(RequestError, match="one of them") as caught:
        request_of(message, stream=False)
    assert caught.value.field == "prompt"


@pytest.mark.parametrize(
    "message", [pb.GenerateRequest(prompt=""), pb.GenerateRequest(prompt_token_ids=pb.TokenIds())]
)
def test_an_empty_prompt_is_refused(message: pb.GenerateRequest) -> None:
    with pytest.raises(RequestError, match="empty"):
        request_of(message, stream=False)


def test_token_ids_are_a_prompt(methods: GrpcService, client: ScriptedClient) -> None:
    message = pb.GenerateRequest(prompt_token_ids=pb.TokenIds(ids=[5, 6]), echo=True)
    answer = asyncio.run(methods.generate(message, Context()))
    assert client.submits[0].prompt.tolist() == [5, 6]
    assert list(answer.choices[0].token_ids) == [token for tokens in ROUNDS for token in tokens]
    parts = asyncio.run(all_of(methods.generate_stream(message, Context())))
    assert "".join(part.text for part in parts) == answer.choices[0].text


def test_the_clients_id_comes_back_and_goes_to_the_target(
    methods: GrpcService, client: ScriptedClient
) -> None:
    context = Context(x_request_id="mine-1")
    answer = asyncio.run(methods.generate(prompt(), context))
    assert answer.id == "cmpl-mine-1"
    assert context.trailing == [("x-request-id", "mine-1")]
    assert client.submits[0].name == "mine-1"
    assert context.code is None


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (RequestError, grpc.StatusCode.INVALID_ARGUMENT),
        (NoRoomError, grpc.StatusCode.RESOURCE_EXHAUSTED),
        (UnavailableError, grpc.StatusCode.UNAVAILABLE),
        (SpecRouterError, grpc.StatusCode.INTERNAL),
    ],
)
def test_what_the_worker_reports_is_the_status(
    methods: GrpcService, client: ScriptedClient, kind: type[SpecRouterError], code: Any
) -> None:
    client.script = lambda submit: [
        output(submit, 0, [10]),
        Failed(submit.request, kind.__name__, "this is why"),
    ]
    for call in (
        lambda context: methods.generate(prompt(), context),
        lambda context: all_of(methods.generate_stream(prompt(), context)),
    ):
        context = Context()
        with pytest.raises(SpecRouterError):
            asyncio.run(call(context))
        assert context.code is code
        assert ("this is why" in context.details) == (code is not grpc.StatusCode.INTERNAL)


@pytest.mark.parametrize("field", ["max_tokens", "min_tokens"])
def test_what_does_not_fit_the_context_is_refused(methods: GrpcService, field: str) -> None:
    context = Context()
    with pytest.raises(RequestError):
        asyncio.run(methods.generate(prompt(**{field: 2048}), context))
    assert context.code is grpc.StatusCode.INVALID_ARGUMENT
    assert context.details.startswith(f"{field}: 2048 tokens behind a prompt of ")


def test_leaving_a_stream_cancels_every_choice(
    methods: GrpcService, client: ScriptedClient
) -> None:
    client.script = lambda submit: [output(submit, 0, [10])]

    async def leave() -> None:
        stream = methods.generate_stream(prompt(n=2), Context())
        await anext(stream)
        await stream.aclose()

    asyncio.run(leave())
    assert sorted(client.cancelled) == sorted(submit.request for submit in client.submits)
    assert len(client.cancelled) == 2


def test_a_bad_id_is_refused(methods: GrpcService) -> None:
    context = Context(x_request_id="two words")
    with pytest.raises(RequestError):
        asyncio.run(methods.generate(prompt(), context))
    assert context.code is grpc.StatusCode.INVALID_ARGUMENT
    assert "X-Request-Id" in context.details


SECRET = "sk-5b1c4f0e93a84d52"


@pytest.fixture
def locked(
    client: ScriptedClient,
    pool: Pool,
    report: PoolReport,
    tokenizer: Tokenizer,
    router: ScriptedRouter,
) -> GrpcService:
    """A service with one key, which may make two requests a minute."""
    settings = ServiceSettings(key_limits=KeyLimits(requests_per_minute=2))
    keys = load_keys(settings, {"SPECROUTER_API_KEYS": f"{SECRET} name=a"})
    admission = Admission(settings, keys)
    return GrpcService(OpenAIService(client, tokenizer, report, pool, router, admission), dict)


@pytest.mark.parametrize("metadata", [{}, {"authorization": "Bearer sk-0000000000000000"}])
def test_without_a_key_only_health_is_told(
    locked: GrpcService, client: ScriptedClient, metadata: dict[str, str]
) -> None:
    for call in (
        lambda context: locked.generate(prompt(), context),
        lambda context: all_of(locked.generate_stream(prompt(), context)),
        lambda context: locked.tokenize(pb.TokenizeRequest(prompt="x"), context),
        lambda context: locked.list_models(pb.ListModelsRequest(), context),
        lambda context: locked.explain_router(pb.ExplainRouterRequest(), context),
    ):
        context = Context(**metadata)
        with pytest.raises(AuthenticationError):
            asyncio.run(call(context))
        assert context.code is grpc.StatusCode.UNAUTHENTICATED
        assert SECRET not in context.details
    assert client.submits == []
    asyncio.run(locked.check(health_pb2.HealthCheckRequest(), Context()))


def test_a_key_has_its_limits_here_too(locked: GrpcService) -> None:
    context = Context(authorization=f"Bearer {SECRET}")

    async def ask_three_times() -> None:
        for _ in range(3):
            await locked.generate(prompt(), context)

    with pytest.raises(RateLimitError):
        asyncio.run(ask_three_times())
    assert context.code is grpc.StatusCode.RESOURCE_EXHAUSTED
