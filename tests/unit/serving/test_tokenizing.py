"""``/tokenize`` and ``/detokenize``."""

from typing import Any

import pytest
from fastapi import FastAPI
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from specrouter_dist.text.tokenizer import Tokenizer
from tests.unit.serving.asgi import call
from tests.unit.serving.calls import USER, error

TEXT = "Once upon a time"


def ask(app: FastAPI, path: str, **fields: Any) -> Any:
    reply = call(app, "POST", path, fields)
    assert reply.status == 200, reply.body
    return reply.json()


def test_ids_of_a_text_have_vllms_shape(app: FastAPI, tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode(TEXT).tolist()
    assert ask(app, "/tokenize", model="tiny", prompt=TEXT) == {
        "count": len(ids),
        "max_model_len": 2048,
        "tokens": ids,
        "token_strs": None,
    }


def test_names_of_the_ids_come_when_asked_for(app: FastAPI) -> None:
    answer = ask(app, "/tokenize", prompt=TEXT, return_token_strs=True)
    assert len(answer["token_strs"]) == answer["count"]
    assert "".join(answer["token_strs"]).replace("\u0120", " ").endswith(TEXT)


def test_a_conversation_is_tokenized_as_it_is_answered(app: FastAPI, tokenizer: Tokenizer) -> None:
    whole = ask(app, "/tokenize", messages=USER)["tokens"]
    assert whole == tokenizer.encode_chat(USER).tolist()
    without = ask(app, "/tokenize", messages=USER, add_generation_prompt=False)["tokens"]
    assert without == whole[: len(without)]
    assert len(without) < len(whole)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(min_size=1), special=st.booleans())
@example(text="a<|user|>b", special=False)
def test_any_text_comes_back(app: FastAPI, text: str, special: bool) -> None:
    tokens = ask(app, "/tokenize", prompt=text, add_special_tokens=special)["tokens"]
    assert ask(app, "/detokenize", tokens=tokens) == {"prompt": text}


@pytest.mark.parametrize(
    ("path", "fields", "param", "words"),
    [
        ("/tokenize", {}, "prompt", "one of them"),
        ("/tokenize", {"prompt": "a", "messages": USER}, "prompt", "one of them"),
        ("/tokenize", {"prompt": ""}, "prompt", "empty"),
        ("/tokenize", {"messages": []}, "messages", "empty"),
        ("/tokenize", {"prompt": ["a"]}, "prompt", "valid string"),
        ("/tokenize", {"prompt": "a", "add_generation_prompt": True}, "add_generation_prompt", ""),
        ("/tokenize", {"prompt": "a", "chat_template": "x"}, "chat_template", "unknown field"),
        ("/detokenize", {}, "tokens", "missing"),
        ("/detokenize", {"tokens": [4096]}, "tokens", "token ids lie in [0, 4096), got 4096"),
        ("/detokenize", {"tokens": [-1]}, "tokens", "a list of token ids"),
        ("/detokenize", {"tokens": "a"}, "tokens", "a list of token ids"),
    ],
)
def test_a_wrong_field_is_named(
    app: FastAPI, path: str, fields: dict[str, Any], param: str, words: str
) -> None:
    wrong = error(call(app, "POST", path, fields), 400)
    assert wrong["param"] == param
    assert words in wrong["message"]


@pytest.mark.parametrize("path", ["/tokenize", "/detokenize"])
def test_another_model_is_not_found(app: FastAPI, path: str) -> None:
    fields = {"prompt": "a"} if path == "/tokenize" else {"tokens": [1]}
    error(call(app, "POST", path, {"model": "gpt-4", **fields}), 404)
