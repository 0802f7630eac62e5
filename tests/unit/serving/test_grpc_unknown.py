"""Fields of a newer .proto file are refused, as unknown fields of a body are."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message

from specrouter_dist.errors import RequestError
from specrouter_dist.serving._proto import service_pb2 as pb
from specrouter_dist.serving.grpc_service import GrpcService
from specrouter_dist.serving.openai_service import OpenAIService
from tests.unit.serving.scripted import ScriptedClient
from tests.unit.serving.test_grpc_service import Context, all_of

NEWER = bytes([(99 << 3 & 0x7F) | 0x80, 99 << 3 >> 7, 1])
"""Field 99, a varint: 1."""


def newer(message: Message) -> Any:
    """The same with a field that nobody here knows."""
    return type(message).FromString(message.SerializeToString() + NEWER)


MESSAGES: dict[str, tuple[str, Any]] = {
    "a prompt": ("Generate", newer(pb.GenerateRequest(prompt="a"))),
    "a stream": ("GenerateStream", newer(pb.GenerateRequest(prompt="a"))),
    "its speculation": (
        "Generate",
        pb.GenerateRequest(prompt="a", speculative=newer(pb.Speculation(num_speculative_tokens=0))),
    ),
    "its tiers": (
        "Generate",
        pb.GenerateRequest(prompt="a", speculative=pb.Speculation(lossy=newer(pb.Lossy()))),
    ),
    "its token ids": ("Generate", pb.GenerateRequest(prompt_token_ids=newer(pb.TokenIds(ids=[5])))),
    "a later turn": (
        "Generate",
        pb.GenerateRequest(
            messages=[
                pb.ChatMessage(role="user", content="a"),
                newer(pb.ChatMessage(role="user", content="b")),
            ]
        ),
    ),
    "a text": ("Tokenize", newer(pb.TokenizeRequest(prompt="a"))),
    "ids": ("Detokenize", newer(pb.DetokenizeRequest(tokens=[5]))),
    "models": ("ListModels", newer(pb.ListModelsRequest())),
    "the router": ("ExplainRouter", newer(pb.ExplainRouterRequest())),
}


@pytest.mark.parametrize("case", MESSAGES)
def test_a_field_without_a_name_is_refused(
    service: OpenAIService, client: ScriptedClient, case: str
) -> None:
    name, message = MESSAGES[case]
    methods = GrpcService(service, dict)
    calls: dict[str, Callable[..., Awaitable[Any]]] = {
        "Generate": methods.generate,
        "GenerateStream": lambda *args: all_of(methods.generate_stream(*args)),
        "Tokenize": methods.tokenize,
        "Detokenize": methods.detokenize,
        "ListModels": methods.list_models,
        "ExplainRouter": methods.explain_router,
    }
    context = Context()

    async def ask() -> None:
        await calls[name](message, context)

    with pytest.raises(RequestError):
        asyncio.run(ask())
    assert context.code is grpc.StatusCode.INVALID_ARGUMENT
    assert context.details.endswith(": unknown field with number 99")
    assert client.submits == []
