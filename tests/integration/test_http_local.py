"""The routes over a pool in this process, with OpenAI's own client: what needs real tokens."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import httpx
import openai
import pytest
import torch
from fastapi import FastAPI
from transformers import AutoModelForCausalLM

from benchmarks.peers.streams import Ask, ask_all
from specrouter_dist.cli.session import open_pool
from specrouter_dist.serving.http import build_http
from specrouter_dist.serving.openai_service import OpenAIService
from specrouter_dist.text.tokenizer import Tokenizer
from tests.pools import open_tiny, short_start

pytestmark = pytest.mark.timeout(300)

PROMPTS = ["Once upon a time", "Open the file."]
LONG = " ".join(f"In line {i} open the file and save what has changed." for i in range(30))
BODY: dict[str, Any] = {"ignore_eos": True}


@pytest.fixture(scope="module")
def app() -> Iterator[FastAPI]:
    pool, report = open_pool("tiny", dtype=None)
    with short_start(), open_tiny("local") as backend:
        tokenizer = Tokenizer.load(pool.directories["target"])
        running = backend.running
        yield build_http(OpenAIService(running.client, tokenizer, report, pool, running))


def ask(app: FastAPI, use: Callable[[openai.AsyncOpenAI], Awaitable[Any]]) -> Any:
    """What ``use`` gets from a client of the application."""

    async def call() -> Any:
        carrier = httpx.AsyncClient(transport=httpx.ASGITransport(app))
        async with openai.AsyncOpenAI(
            base_url="http://test/v1", api_key="none", max_retries=0, http_client=carrier
        ) as client:
            return await use(client)

    return asyncio.run(call())


def complete(app: FastAPI, speculative: Any = True, **fields: Any) -> openai.types.Completion:
    body = {**BODY, "speculative": speculative}
    answer: openai.types.Completion = ask(
        app,
        lambda client: client.completions.create(
            **{"model": "tiny", "prompt": PROMPTS[0], "max_tokens": 24, **fields}, extra_body=body
        ),
    )
    return answer


def app_tokens(app: FastAPI, text: str) -> list[int]:
    """Of the pool's own tokenizer, as the service tells them."""

    async def post() -> list[int]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app)) as client:
            answer = await client.post("http://test/tokenize", json={"prompt": text})
            tokens: list[int] = answer.json()["tokens"]
            return tokens

    return asyncio.run(post())


def test_choices_are_what_their_seeds_give_alone(app: FastAPI) -> None:
    choices = complete(app, prompt=PROMPTS, n=3, seed=7).choices
    assert len({choice.text for choice in choices}) == 6
    for choice in choices:
        alone = complete(
            app,
            speculative=False,
            prompt=PROMPTS[choice.index // 3],
            seed=choice.seed,  # type: ignore[attr-defined]
        )
        assert alone.choices[0].text == choice.text


def test_a_stream_of_choices_says_what_the_whole_says(app: FastAPI) -> None:
    async def stream(client: openai.AsyncOpenAI) -> dict[int, str]:
        texts: dict[int, str] = {}
        async for chunk in await client.completions.create(
            model="tiny", prompt=PROMPTS, n=2, seed=7, max_tokens=24, stream=True, extra_body=BODY
        ):
            (choice,) = chunk.choices
            texts[choice.index] = texts.get(choice.index, "") + choice.text
        return texts

    whole = complete(app, prompt=PROMPTS, n=2, seed=7).choices
    assert ask(app, stream) == {choice.index: choice.text for choice in whole}


def test_a_conversation_streams_what_it_answers(app: FastAPI) -> None:
    fields: dict[str, Any] = {
        "model": "tiny",
        "messages": [{"role": "user", "content": "Translate to Dutch: Open the file."}],
        "seed": 7,
        "max_completion_tokens": 24,
        "logprobs": True,
        "top_logprobs": 2,
    }

    async def stream(client: openai.AsyncOpenAI) -> tuple[str, list[str]]:
        text, tokens = "", []
        async for chunk in await client.chat.completions.create(stream=True, **fields):
            (choice,) = chunk.choices
            text += choice.delta.content or ""
            tokens += [entry.token for entry in (choice.logprobs and choice.logprobs.content) or ()]
        return text, tokens

    whole = ask(app, lambda client: client.chat.completions.create(**fields)).choices[0]
    entries = whole.logprobs.content
    assert all(len(entry.top_logprobs) == 2 and entry.logprob <= 0.0 for entry in entries)
    assert ask(app, stream) == (whole.message.content, [entry.token for entry in entries])


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("fields", "kind", "param"),
    [
        ({"model": "gpt-4"}, openai.NotFoundError, "model"),
        ({"temperature": -1}, openai.BadRequestError, "temperature"),
        ({"prompt": [[5000]]}, openai.BadRequestError, "prompt"),
        ({"prompt": "word " * 5000}, openai.BadRequestError, "prompt"),
        ({"best_of": 3}, openai.BadRequestError, "best_of"),
        ({"logprobs": 21}, openai.BadRequestError, "logprobs"),
    ],
)
def test_errors_are_the_clients_own_before_a_stream_too(
    app: FastAPI, stream: bool, fields: dict[str, Any], kind: type[openai.APIError], param: str
) -> None:
    with pytest.raises(kind) as caught:
        complete(app, stream=stream, **fields)
    assert caught.value.param == param
    assert param in str(caught.value)


def test_models_are_listed_and_found_by_name(app: FastAPI) -> None:
    async def models(client: openai.AsyncOpenAI) -> tuple[list[str], str]:
        listed = [model.id async for model in client.models.list()]
        return listed, (await client.models.retrieve("tiny")).id

    assert ask(app, models) == (["tiny"], "tiny")


@pytest.mark.parametrize(
    ("speculative", "chain", "lengths"),
    [
        ({"chain": ["small", "target"], "num_speculative_tokens": 3}, ["small", "target"], [3]),
        ({"num_speculative_tokens": 2}, None, None),
        ({"num_speculative_tokens": 0}, ["target"], []),
    ],
)
def test_stated_blocks_are_used_and_change_no_text(
    app: FastAPI, speculative: Any, chain: list[str] | None, lengths: list[int] | None
) -> None:
    answer = complete(app, speculative, seed=3)
    assert answer.choices[0].text == complete(app, False, seed=3).choices[0].text
    metrics = answer.metrics  # type: ignore[attr-defined]
    if chain is None:
        assert len(metrics["chain"]) > 1
        lengths = [2] * (len(metrics["chain"]) - 1)
    else:
        assert metrics["chain"] == chain
    assert [plan["num_draft_tokens"] for plan in metrics["plans"]] == [lengths]
    proposed = metrics["speculative_decoding"]["num_draft_tokens"]
    assert (proposed > 0) == (metrics["chain"] != ["target"])


def test_an_echo_comes_before_what_comes_without(app: FastAPI) -> None:
    fields: dict[str, Any] = {"temperature": 0.0}
    with_prompt = complete(app, echo=True, **fields).choices[0].text
    assert with_prompt == PROMPTS[0] + complete(app, **fields).choices[0].text
    assert complete(app, echo=True, max_tokens=0).choices[0].text == PROMPTS[0]


def of_prompt(app: FastAPI, speculative: Any, max_tokens: int) -> Any:
    fields: dict[str, Any] = {"temperature": 0.0, "echo": True, "logprobs": 2}
    answer = complete(app, speculative, prompt=LONG, max_tokens=max_tokens, **fields)
    return answer.choices[0].logprobs


@pytest.mark.parametrize("speculative", [False, {"chain": ["small", "medium", "target"]}])
def test_an_echo_has_the_models_log_probabilities(app: FastAPI, speculative: Any) -> None:
    pool, _ = open_pool("tiny", dtype=None)
    directory = pool.directories["target"]
    # bf16 weights; what is summed in float32 differs from the service's by rounding alone.
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    ids = Tokenizer.load(directory).encode(LONG)
    assert len(ids) > 2 * 128
    with torch.inference_mode():
        laws = model(torch.tensor([ids.tolist()])).logits[0].log_softmax(1)
    expected = laws[:-1].gather(1, torch.tensor(ids[1:].tolist())[:, None])[:, 0].tolist()
    found = of_prompt(app, speculative, 1)
    assert found.token_logprobs[0] is None
    gaps = [abs(a - b) for a, b in zip(found.token_logprobs[1:-1], expected, strict=True)]
    assert max(gaps) < 0.2 and sum(gaps) / len(gaps) < 0.03
    assert "".join(found.tokens[:-1]) == LONG
    # The pages of the first request's prompt are kept, and must not be taken for its rows.
    assert of_prompt(app, False, 0).token_logprobs == found.token_logprobs[:-1]
    assert of_prompt(app, True, 24).top_logprobs[:-23] == found.top_logprobs


def test_metrics_count_what_was_said(app: FastAPI) -> None:
    def count(name: str) -> float:
        async def get() -> str:
            async with httpx.AsyncClient(transport=httpx.ASGITransport(app)) as client:
                return (await client.get("http://test/metrics")).text

        lines = asyncio.run(get()).splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith(name + "{"))

    names = [f"vllm:{name}_total" for name in ("generation_tokens", "request_success")]
    names += ["vllm:spec_decode_num_accepted_tokens_total"]
    before = [count(name) for name in names]
    answer = complete(app, {"chain": ["small", "target"]}, n=2)
    accepted = answer.metrics["speculative_decoding"]["num_accepted_draft_tokens"]  # type: ignore[attr-defined]
    after = [count(name) for name in names]
    assert [b - a for a, b in zip(before, after, strict=True)] == [48, 2, accepted]


def test_what_the_benchmark_streams_is_what_was_written_and_all_of_it(app: FastAPI) -> None:
    ids = [app_tokens(app, prompt) for prompt in PROMPTS]
    fields = {"speculative": {"chain": ["small", "target"]}}
    asked = Ask("http://test/v1", "tiny", 24, 0.0, ignore_eos=True, fields=fields)
    streamed = ask_all(asked, ids, concurrency=2, transport=httpx.ASGITransport(app))
    assert [one.num_tokens for one in streamed] == [24, 24]
    for one, prompt in zip(streamed, PROMPTS, strict=True):
        assert one.text == complete(app, prompt=prompt, temperature=0.0).choices[0].text
        assert 0 < one.time_to_first_token_ms <= one.total_ms


def test_a_refusal_ends_the_benchmark(app: FastAPI) -> None:
    asked = Ask("http://test/v1", "tiny", 0, 0.0, ignore_eos=True, fields={})
    with pytest.raises(RuntimeError, match=r"400: .*max_tokens"):
        ask_all(asked, [[1, 2]], concurrency=1, transport=httpx.ASGITransport(app))
