"""Seeds of gRPC are those of HTTP: 64 bits without a sign."""

import asyncio
from typing import Any

import pytest

from specrouter_dist.serving._proto import service_pb2 as pb
from specrouter_dist.serving.grpc_service import GrpcService
from specrouter_dist.serving.openai_schema import MAX_CHOICES
from specrouter_dist.serving.openai_service import OpenAIService
from specrouter_dist.speculation.noise import derive_seed
from tests.unit.serving.scripted import ScriptedClient
from tests.unit.serving.test_grpc_service import Context


@pytest.mark.parametrize("seed", [0, 7, (1 << 63) - 1, 1 << 63, (1 << 64) - 1])
def test_every_choice_carries_its_own(
    service: OpenAIService, client: ScriptedClient, seed: int
) -> None:
    methods = GrpcService(service, dict)
    message = pb.GenerateRequest(prompt="Hello", n=MAX_CHOICES, seed=seed, max_tokens=6)
    expected = [derive_seed(seed, choice, 0) for choice in range(MAX_CHOICES)]
    assert max(expected) >= 1 << 63, "half of them are that large"

    async def stream() -> dict[int, int]:
        parts = methods.generate_stream(message, Context())
        return {part.index: part.seed async for part in parts}

    whole: Any = asyncio.run(methods.generate(message, Context()))
    assert [choice.seed for choice in whole.choices] == expected
    assert asyncio.run(stream()) == dict(enumerate(expected))
    assert [submit.sampling.seed for submit in client.submits] == expected * 2
