"""``specrouter serve`` with OpenAI's own client: answers, streams, errors, closed connections."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from functools import partial
from typing import Any

import openai
import psutil
import pytest

from tests.integration.serve.running import FREE_WITHIN_S, PROMPT, NumSessions, Server, wait_for

pytestmark = [pytest.mark.ray, pytest.mark.timeout(400)]


def get(server: Server, path: str) -> Any:
    with urllib.request.urlopen(server.url + path, timeout=30) as response:
        return json.load(response)


def ask(client: openai.OpenAI, speculative: Any, **fields: Any) -> openai.types.Completion:
    body = {"speculative": speculative, "ignore_eos": True}
    return client.completions.create(model="tiny", prompt=PROMPT, extra_body=body, **fields)


SPECULATIVE = [
    True,
    {"num_speculative_tokens": 2},
    {"chain": ["small", "target"]},
    {"chain": ["small", "medium", "target"], "num_speculative_tokens": 5},
]


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_every_chain_answers_as_the_target_alone(client: openai.OpenAI, temperature: float) -> None:
    fields: dict[str, Any] = {"temperature": temperature, "seed": 5, "max_tokens": 64}
    alone = ask(client, False, **fields)
    assert alone.metrics["chain"] == ["target"]  # type: ignore[attr-defined]
    assert alone.usage is not None and alone.usage.completion_tokens == 64
    for speculative in SPECULATIVE:
        assert ask(client, speculative, **fields).choices[0].text == alone.choices[0].text


def test_an_unseeded_answer_can_be_had_again(client: openai.OpenAI) -> None:
    first, second = (ask(client, True, max_tokens=32) for _ in range(2))
    assert first.seed != second.seed  # type: ignore[attr-defined]
    assert first.choices[0].text != second.choices[0].text
    again = ask(client, False, max_tokens=32, seed=first.seed)  # type: ignore[attr-defined]
    assert again.choices[0].text == first.choices[0].text


@pytest.mark.parametrize("speculative", [False, {"chain": ["small", "medium", "target"]}])
def test_a_stream_has_one_chunk_per_turn(client: openai.OpenAI, speculative: Any) -> None:
    fields: dict[str, Any] = {"temperature": 0.0, "max_tokens": 96}
    whole = ask(client, speculative, **fields)
    body = {"speculative": speculative, "ignore_eos": True}
    *chunks, last = client.completions.create(
        model="tiny",
        prompt=PROMPT,
        stream=True,
        stream_options={"include_usage": True},
        extra_body=body,
        **fields,
    )
    assert "".join(chunk.choices[0].text for chunk in chunks) == whole.choices[0].text
    assert [c.choices[0].finish_reason for c in chunks] == [None] * (len(chunks) - 1) + ["length"]
    assert last.choices == [] and last.usage is not None
    assert last.usage.completion_tokens == 96
    accepted = last.metrics["speculative_decoding"]["num_accepted_draft_tokens"]  # type: ignore[attr-defined]
    assert (accepted == 0) == (speculative is False)
    if speculative:
        # Each round gives what it accepted and one more, but for the last where the length cuts it.
        assert 96 - accepted <= len(chunks) <= 96 - accepted + 1
    else:
        # Up to eight tokens a turn, but for the first, which is alone.
        assert 1 + 95 / 8 <= len(chunks) <= 96


@pytest.mark.parametrize("speculative", [False, {"chain": ["small", "medium", "target"]}])
def test_sampling_fields_are_obeyed(client: openai.OpenAI, speculative: Any) -> None:
    greedy: dict[str, Any] = {"temperature": 0.0, "max_tokens": 40}
    plain = ask(client, speculative, **greedy).choices[0]

    stop = plain.text[20:26]
    stopped = ask(client, speculative, stop=stop, **greedy).choices[0]
    assert stopped.text == plain.text[: plain.text.index(stop)]
    assert stopped.finish_reason == "stop"

    biased = ask(client, speculative, logit_bias={"300": 100}, logprobs=1, **greedy).choices[0]
    assert biased.logprobs is not None and biased.logprobs.tokens is not None
    assert len(set(biased.logprobs.tokens)) == 1
    assert len(biased.logprobs.tokens) == 40

    logprobs = ask(client, speculative, logprobs=2, **greedy).choices[0].logprobs
    assert logprobs is not None
    assert logprobs.tokens is not None
    assert "".join(logprobs.tokens).replace("<|endoftext|>", "") == plain.text
    assert logprobs.token_logprobs is not None and logprobs.top_logprobs is not None
    for token, logprob, top in zip(
        logprobs.tokens, logprobs.token_logprobs, logprobs.top_logprobs, strict=True
    ):
        # Greedy: the drawn token is the likeliest.
        assert logprob is not None and logprob <= 0
        assert top is not None and top[token] == logprob == max(top.values())


def test_a_conversation_streams_as_it_answers(client: openai.OpenAI) -> None:
    messages: Any = [{"role": "user", "content": "Translate to Dutch: Open the file."}]
    fields: dict[str, Any] = {"model": "tiny", "messages": messages, "seed": 7, "max_tokens": 40}
    whole = client.chat.completions.create(**fields).choices[0].message
    chunks = list(client.chat.completions.create(stream=True, **fields))
    assert chunks[0].choices[0].delta.role == whole.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole.content


def test_many_at_once_get_what_one_gets(client: openai.OpenAI, server: Server) -> None:
    async def all_at_once() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none") as many:
            calls = [
                many.completions.create(model="tiny", prompt=PROMPT, seed=i, max_tokens=24)
                for i in range(16)
            ]
            return [answer.choices[0].text for answer in await asyncio.gather(*calls)]

    together = asyncio.run(all_at_once())
    for i in (0, 15):
        alone = client.completions.create(model="tiny", prompt=PROMPT, seed=i, max_tokens=24)
        assert alone.choices[0].text == together[i]


def test_models_and_health(client: openai.OpenAI, server: Server) -> None:
    (model,) = client.models.list().data
    assert model.id == "tiny"
    assert os.path.isdir(model.root)  # type: ignore[attr-defined]
    health = get(server, "/health")
    assert health["status"] == "ok"
    assert health["num_tokens"] > 0
    assert health["chain"][-1] == "target"


def test_the_router_explains_itself_and_has_a_page(server: Server) -> None:
    explained = get(server, "/v1/router")
    assert explained["number"] > 0
    assert explained["target"] == "target"
    assert all(member["forward_us"] for member in explained["members"][1:])
    verifiers = {pair["verifier"] for pair in explained["pairs"]}
    assert verifiers == {"small", "medium", "slim", "target"}
    with urllib.request.urlopen(f"{server.url}/router", timeout=30) as response:
        assert response.headers.get_content_type() == "text/html"


def test_plan_looks_at_the_running_pool_until_it_is_interrupted(server: Server) -> None:
    command = [sys.executable, "-m", "specrouter_dist.cli", "plan", "--live", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            views = [json.loads(process.stdout.readline()) for _ in range(2)]
        finally:
            process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
    assert views[0]["chain"][-1] == "target"
    assert views[0]["router"]["number"] <= views[1]["router"]["number"]


def test_errors_reach_the_client_as_its_own(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="no model 'gpt-4'"):
        client.completions.create(model="gpt-4", prompt=PROMPT)
    with pytest.raises(openai.BadRequestError, match="temperature") as caught:
        client.completions.create(model="tiny", prompt=PROMPT, temperature=-1)
    assert caught.value.param == "temperature"
    with pytest.raises(openai.BadRequestError, match="has no member 'huge'"):
        ask(client, {"chain": ["huge", "target"]})
    with pytest.raises(openai.BadRequestError, match="empty"):
        client.completions.create(model="tiny", prompt="", stream=True)


def test_a_closed_connection_frees_every_level(server: Server, num_sessions: NumSessions) -> None:
    for stream, n in ((True, 1), (False, 1), (True, 3), (False, 3)):
        wait_for(num_sessions, lambda numbers: not any(numbers.values()))
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            connection.sendall(long_request(stream=stream, n=n))
            wait_for(num_sessions, lambda numbers: all(numbers.values()))
        closed = time.monotonic()
        wait_for(num_sessions, lambda numbers: not any(numbers.values()))
        assert time.monotonic() - closed < FREE_WITHIN_S, (stream, n)


def test_a_stream_that_its_reader_leaves_frees_every_level(
    client: openai.OpenAI, server: Server, num_sessions: NumSessions
) -> None:
    fields: dict[str, Any] = {"model": "tiny", "prompt": PROMPT, "max_tokens": 1500, "stream": True}
    body = {"speculative": {"chain": ["small", "medium", "target"]}, "ignore_eos": True}

    def leave() -> None:
        with client.completions.create(extra_body=body, **fields) as stream:
            assert next(stream).choices
            wait_for(num_sessions, lambda numbers: all(numbers.values()))

    async def leave_async() -> None:
        async with (
            openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none") as other,
            await other.completions.create(extra_body=body, **fields) as stream,
        ):
            assert (await anext(aiter(stream))).choices
            everywhere = partial(wait_for, num_sessions, lambda numbers: all(numbers.values()))
            await asyncio.to_thread(everywhere)

    for leaving in (leave, lambda: asyncio.run(leave_async())):
        wait_for(num_sessions, lambda numbers: not any(numbers.values()))
        leaving()
        left = time.monotonic()
        wait_for(num_sessions, lambda numbers: not any(numbers.values()))
        assert time.monotonic() - left < FREE_WITHIN_S


def long_request(*, stream: bool, n: int) -> bytes:
    body = json.dumps(
        {
            "prompt": PROMPT,
            "max_tokens": 1500,
            "ignore_eos": True,
            "stream": stream,
            "n": n,
            "speculative": {"chain": ["small", "medium", "target"]},
        }
    )
    head = f"POST /v1/completions HTTP/1.1\r\nHost: test\r\nContent-Length: {len(body)}\r\n\r\n"
    return (head + body).encode()


# The last one: it ends the server.
def test_a_lossy_answer_says_so_and_leaves_the_next_one_alone(client: openai.OpenAI) -> None:
    fields: dict[str, Any] = {"temperature": 0.0, "max_tokens": 64}
    speculative: dict[str, Any] = {"chain": ["small", "slim", "target"]}
    bounds = {"accept": 0.2, "escalate": 0.05}
    wanted = ask(client, False, **fields).choices[0].text
    lossy = ask(client, {**speculative, "lossy": bounds}, **fields).model_dump()
    tiers = lossy["choices"][0]["tiers"]
    assert lossy["lossy"] and lossy["choices"][0]["text"] != wanted
    assert tiers["accepted"] + tiers["slim"] + tiers["escalated"] == 64
    assert tiers["accepted"] > 0 and tiers["num_disagreements"] <= tiers["num_checked"]
    again = ask(client, speculative, **fields)
    assert again.choices[0].text == wanted
    assert "lossy" not in again.model_dump()
    with pytest.raises(openai.BadRequestError) as refused:
        ask(client, {**speculative, "lossy": {}}, logprobs=1, **fields)
    assert refused.value.param == "logprobs"


def test_an_interrupt_ends_the_server_and_all_it_started(server: Server) -> None:
    family = psutil.Process(server.process.pid).children(recursive=True)
    assert len(family) > 5
    server.process.send_signal(signal.SIGINT)
    assert server.process.wait(60) == 130
    _, alive = psutil.wait_procs(family, timeout=10)
    assert alive == []
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", server.port))
