"""``echo``: a text that begins with its prompt."""

from collections.abc import Iterable
from typing import Any

import pytest
from fastapi import FastAPI

from specrouter_dist.engine.interface import TokenLogprobs
from specrouter_dist.links.control import Submit
from specrouter_dist.text.tokenizer import Tokenizer
from tests.unit.serving.asgi import call
from tests.unit.serving.calls import complete, error
from tests.unit.serving.scripted import ROUNDS, Message, ScriptedClient, output


@pytest.fixture
def continuation(tokenizer: Tokenizer) -> str:
    """Of every plain answer."""
    return tokenizer.detokenizer().push([token for tokens in ROUNDS for token in tokens])


def test_every_choice_begins_with_its_prompt(app: FastAPI, continuation: str) -> None:
    choices = complete(app, prompt=["Hello", "Open"], n=2, echo=True).json()["choices"]
    assert [choice["text"] for choice in choices] == [
        prompt + continuation for prompt in ("Hello", "Hello", "Open", "Open")
    ]


def test_ids_are_echoed_as_their_text(
    app: FastAPI, tokenizer: Tokenizer, continuation: str
) -> None:
    ids = tokenizer.encode("Open the file.").tolist()
    (choice,) = complete(app, prompt=ids, echo=True).json()["choices"]
    assert choice["text"] == "Open the file." + continuation


def test_a_stream_echoes_with_the_first_event_of_each_choice(
    app: FastAPI, continuation: str
) -> None:
    *events, _ = complete(app, n=2, echo=True, stream=True).events()
    assert len(events) == 2 * len(ROUNDS)
    for index in (0, 1):
        own = [e["choices"][0]["text"] for e in events if e["choices"][0]["index"] == index]
        assert "".join(own) == "Hello" + continuation
        assert own[0].startswith("Hello")


@pytest.mark.parametrize("fields", [{"n": 2}, {"n": 1}, {"speculative": False}])
def test_without_tokens_the_echo_is_all_and_nobody_is_asked(
    app: FastAPI, client: ScriptedClient, fields: dict[str, Any]
) -> None:
    answer = complete(app, echo=True, max_tokens=0, **fields).json()
    n = fields.get("n", 1)
    assert [c["text"] for c in answer["choices"]] == ["Hello"] * n
    assert {c["finish_reason"] for c in answer["choices"]} == {"length"}
    assert answer["usage"]["completion_tokens"] == 0
    assert answer["metrics"]["speculative_decoding"]["num_draft_tokens"] == 0
    options = {"include_usage": True}
    *events, last, done = complete(
        app, echo=True, max_tokens=0, stream=True, stream_options=options, **fields
    ).events()
    assert [e["choices"][0]["text"] for e in events] == ["Hello"] * n
    assert last["usage"] == answer["usage"]
    assert done == "[DONE]"
    assert client.submits == []


def scored(submit: Submit) -> Iterable[Message]:
    """The prompt's log-probabilities in two messages, the second with two tokens."""
    *early, last = [
        TokenLogprobs(token, -1.0 - i, ((token + 1, -0.5),))
        for i, token in enumerate(submit.prompt[1:])
    ]
    row = TokenLogprobs(10, -0.25, ((10, -0.25),))
    yield output(submit, 0, [], prompt_logprobs=tuple(early))
    yield output(submit, 0, [10], "length", (row,), (last,))


@pytest.mark.parametrize("max_tokens", [0, 1])
def test_an_echo_has_log_probabilities_of_all_but_its_first_token(
    app: FastAPI, client: ScriptedClient, tokenizer: Tokenizer, max_tokens: int
) -> None:
    client.script = scored
    ids = tokenizer.encode("Open the file.").tolist()
    fields = {"prompt": ids, "echo": True, "logprobs": 1, "max_tokens": max_tokens}
    answer = complete(app, **fields).json()
    (choice,) = answer["choices"]
    texts = [tokenizer.token_bytes(token).decode() for token in [*ids, 10][: len(ids) + max_tokens]]
    assert choice["text"] == "".join(texts)
    found = choice["logprobs"]
    assert found["tokens"] == texts
    of_prompt = [None, *(-1.0 - i for i in range(len(ids) - 1))]
    assert found["token_logprobs"] == of_prompt + [-0.25] * max_tokens
    assert found["top_logprobs"][0] is None
    assert found["top_logprobs"][1][texts[1]] == -1.0
    assert len(found["top_logprobs"][1]) == 2
    assert found["text_offset"] == [len("".join(texts[:i])) for i in range(len(texts))]
    assert answer["usage"]["completion_tokens"] == max_tokens
    assert choice["finish_reason"] == "length"
    (submit,) = client.submits
    assert submit.sampling.prompt_logprobs == 1

    *events, done = complete(app, stream=True, **fields).events()
    parts = [event["choices"][0] for event in events]
    assert done == "[DONE]"
    assert "".join(part["text"] for part in parts) == choice["text"]
    for key, value in found.items():
        assert [entry for part in parts for entry in part["logprobs"][key]] == value
    # Of both: what the target had to generate for the sake of the prompt is nobody's output.
    counted = f'vllm:generation_tokens_total{{model_name="tiny"}} {2.0 * max_tokens}\n'
    assert counted in call(app, "GET", "/metrics").body.decode()


def test_only_an_echo_asks_for_the_prompts(app: FastAPI, client: ScriptedClient) -> None:
    complete(app, logprobs=1)
    assert client.submits[0].sampling.prompt_logprobs is None


def test_what_cannot_be_given_is_refused_by_name(app: FastAPI) -> None:
    assert error(complete(app, max_tokens=0), 400)["param"] == "max_tokens"
