"""``echo``: a text that begins with its prompt."""

from typing import Any

import pytest
from fastapi import FastAPI

from specrouter_dist.text.tokenizer import Tokenizer
from tests.unit.serving.calls import complete, error
from tests.unit.serving.scripted import ROUNDS, ScriptedClient


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


def test_what_cannot_be_given_is_refused_by_name(app: FastAPI) -> None:
    wrong = error(complete(app, echo=True, max_tokens=0, logprobs=1), 400)
    assert wrong["param"] == "logprobs"
    assert error(complete(app, max_tokens=0), 400)["param"] == "max_tokens"
