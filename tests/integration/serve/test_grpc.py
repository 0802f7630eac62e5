"""The gRPC methods through Serve's own proxy: the same texts as HTTP's, statuses, cancelling."""

import time
from collections.abc import Iterator
from typing import Any

import grpc
import openai
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

from specrouter_dist.serving._proto import service_pb2 as pb
from specrouter_dist.serving._proto.service_pb2_grpc import SpecRouterStub
from tests.integration.serve.running import FREE_WITHIN_S, PROMPT, NumSessions, Server, wait_for

pytestmark = [pytest.mark.ray, pytest.mark.timeout(400)]

THREE = pb.Speculation(chain=["small", "medium", "target"])


@pytest.fixture
def channel(server: Server) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as opened:
        yield opened


@pytest.fixture
def stub(channel: grpc.Channel) -> SpecRouterStub:
    return SpecRouterStub(channel)


def request(**fields: Any) -> pb.GenerateRequest:
    fields = {"model": "tiny", "prompt": PROMPT, "ignore_eos": True, "max_tokens": 48, **fields}
    return pb.GenerateRequest(**fields)


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_an_answer_is_that_of_http(
    stub: SpecRouterStub, client: openai.OpenAI, temperature: float
) -> None:
    whole = stub.Generate(request(temperature=temperature, seed=5, n=2, speculative=THREE))
    by_http = client.completions.create(
        model="tiny",
        prompt=PROMPT,
        temperature=temperature,
        seed=5,
        n=2,
        max_tokens=48,
        extra_body={"ignore_eos": True, "speculative": False},
    )
    assert [c.text for c in whole.choices] == [c.text for c in by_http.choices]
    assert [c.seed for c in whole.choices] == [c.seed for c in by_http.choices]  # type: ignore[attr-defined]
    assert by_http.usage is not None
    assert whole.usage.completion_tokens == by_http.usage.completion_tokens == 96
    assert whole.usage.prompt_tokens == by_http.usage.prompt_tokens
    assert list(whole.choices[0].metrics.chain) == ["small", "medium", "target"]
    assert {"small", "medium"} <= {level.draft for level in whole.choices[0].metrics.levels}


def test_a_stream_says_round_by_round_what_the_whole_says(stub: SpecRouterStub) -> None:
    asked = request(temperature=0.8, seed=5, n=2, logprobs=1, speculative=THREE)
    whole = stub.Generate(asked)
    *parts, last = stub.GenerateStream(asked)
    for choice in whole.choices:
        own = [part for part in (*parts, last) if part.index == choice.index]
        assert "".join(part.text for part in own) == choice.text
        assert [token for part in own for token in part.token_ids] == list(choice.token_ids)
        assert [row for part in own for row in part.logprobs] == list(choice.logprobs)
        assert [part.finish_reason for part in own][-1] == pb.FINISH_REASON_LENGTH
        assert {part.seed for part in own} == {choice.seed}
        assert len(own) == own[-1].metrics.num_rounds
    assert last.usage == whole.usage
    assert not any(part.HasField("usage") for part in parts)


def test_a_conversation_is_that_of_http(stub: SpecRouterStub, client: openai.OpenAI) -> None:
    text = "Translate to Dutch: Open the file."
    messages = [pb.ChatMessage(role="user", content=text)]
    whole = stub.Generate(pb.GenerateRequest(messages=messages, seed=7, max_tokens=40))
    by_http = client.chat.completions.create(
        model="tiny", messages=[{"role": "user", "content": text}], seed=7, max_tokens=40
    )
    assert whole.choices[0].text == by_http.choices[0].message.content
    assert whole.choices[0].metrics.time_to_first_token_ms > 0


@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize(
    ("fields", "code", "says"),
    [
        ({"temperature": -1.0}, grpc.StatusCode.INVALID_ARGUMENT, "temperature: "),
        ({"n": 1000}, grpc.StatusCode.INVALID_ARGUMENT, "n: "),
        (
            {"speculative": pb.Speculation(chain=["huge", "target"])},
            grpc.StatusCode.INVALID_ARGUMENT,
            "speculative.chain: ",
        ),
        ({"model": "gpt-4"}, grpc.StatusCode.NOT_FOUND, "model: "),
    ],
)
def test_what_is_wrong_is_named(
    stub: SpecRouterStub, is_stream: bool, fields: dict[str, Any], code: Any, says: str
) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        if is_stream:
            list(stub.GenerateStream(request(**fields)))
        else:
            stub.Generate(request(**fields))
    assert caught.value.code() == code
    assert caught.value.details().startswith(says.split(": ")[0])


@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize("by_deadline", [False, True])
def test_leaving_frees_every_level(
    stub: SpecRouterStub, num_sessions: NumSessions, is_stream: bool, by_deadline: bool
) -> None:
    wait_for(num_sessions, lambda numbers: not any(numbers.values()))
    asked = request(max_tokens=1500, speculative=THREE)
    timeout_s = 1.0 if by_deadline else None
    if is_stream:
        call = stub.GenerateStream(asked, timeout=timeout_s)
    else:
        call = stub.Generate.future(asked, timeout=timeout_s)
    wait_for(num_sessions, lambda numbers: all(numbers.values()))
    if by_deadline:
        with pytest.raises(grpc.RpcError) as caught:
            list(call) if is_stream else call.result()
        assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    else:
        call.cancel()
    left = time.monotonic()
    wait_for(num_sessions, lambda numbers: not any(numbers.values()))
    assert time.monotonic() - left < FREE_WITHIN_S


def test_streams_that_are_left_while_they_write_are_freed_too(
    stub: SpecRouterStub, num_sessions: NumSessions
) -> None:
    for i in range(24):
        # Often enough to meet the moment in which the proxy has a message and sends it.
        call = stub.GenerateStream(request(max_tokens=1500), timeout=0.15 + 0.01 * i)
        with pytest.raises(grpc.RpcError):
            list(call)
    left = time.monotonic()
    wait_for(num_sessions, lambda numbers: not any(numbers.values()))
    assert time.monotonic() - left < FREE_WITHIN_S


def test_a_request_id_comes_back(stub: SpecRouterStub) -> None:
    sent = (("x-request-id", "mine-1"),)
    answer, call = stub.Generate.with_call(request(max_tokens=2), metadata=sent)
    assert answer.id == "cmpl-mine-1"
    assert ("x-request-id", "mine-1") in [tuple(pair) for pair in call.trailing_metadata()]


def test_tokens_models_router_and_health(stub: SpecRouterStub, channel: grpc.Channel) -> None:
    tokenized = stub.Tokenize(pb.TokenizeRequest(prompt=PROMPT, return_token_strs=True))
    assert tokenized.count == len(tokenized.tokens) == len(tokenized.token_strs) > 0
    again = stub.Detokenize(pb.DetokenizeRequest(tokens=tokenized.tokens))
    assert again.prompt == PROMPT
    (model,) = stub.ListModels(pb.ListModelsRequest()).models
    assert (model.id, model.members[-1].name) == ("tiny", "target")
    router = stub.ExplainRouter(pb.ExplainRouterRequest()).router
    assert router["target"] == "target" and router["number"] > 0
    health = health_pb2_grpc.HealthStub(channel)
    checked = health.Check(health_pb2.HealthCheckRequest(service="specrouter.v1.SpecRouter"))
    assert checked.status == health_pb2.HealthCheckResponse.SERVING
    listed = health.List(health_pb2.HealthListRequest()).statuses
    assert listed["specrouter.v1.SpecRouter"] == checked
    with pytest.raises(grpc.RpcError) as caught:
        list(health.Watch(health_pb2.HealthCheckRequest()))
    assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED


def test_reflection_describes_the_service(channel: grpc.Channel) -> None:
    database = ProtoReflectionDescriptorDatabase(channel)
    assert {"specrouter.v1.SpecRouter", "grpc.health.v1.Health"} <= set(database.get_services())
    service = DescriptorPool(database).FindServiceByName("specrouter.v1.SpecRouter")
    assert service.methods_by_name["GenerateStream"].server_streaming
    assert not service.methods_by_name["Generate"].server_streaming
