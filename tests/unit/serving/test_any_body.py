"""Whatever a body says, the answer is one or a named refusal."""

import json
from typing import Any

import pytest
from fastapi import FastAPI
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from specrouter_dist.serving.openai_schema import ChatRequest, CompletionRequest
from specrouter_dist.serving.tokenizing import DetokenizeRequest, TokenizeRequest
from tests.unit.serving.asgi import call
from tests.unit.serving.calls import CHAT, COMPLETIONS, USER, error

NUMBERS = st.one_of(st.integers(-2, 20), st.integers(), st.floats())
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, st.text(max_size=5)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=5,
)
SPECULATIVE = st.fixed_dictionaries(
    {},
    optional={
        "chain": st.lists(st.sampled_from(["lookup", "small", "target"]), max_size=3),
        "num_speculative_tokens": st.integers(-1, 17),
    },
)
SENSIBLE: dict[str, Any] = {
    "prompt": "Hello",
    "messages": USER,
    "tokens": [5, 6],
    "model": "tiny",
}
ENDPOINTS = {
    COMPLETIONS: CompletionRequest,
    CHAT: ChatRequest,
    "/tokenize": TokenizeRequest,
    "/detokenize": DetokenizeRequest,
}


@pytest.mark.parametrize("path", ENDPOINTS)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_body_is_a_failure_of_the_server(app: FastAPI, path: str, data: st.DataObject) -> None:
    names = list(ENDPOINTS[path].model_fields)
    drawn = st.dictionaries(st.sampled_from([*names, "tools", "typo"]), VALUES, max_size=3)
    body: dict[str, Any] = {name: SENSIBLE[name] for name in names if name in SENSIBLE}
    if path == "/tokenize":
        del body["messages"]
    body |= data.draw(drawn)
    if data.draw(st.booleans()) and "speculative" in names:
        body["speculative"] = data.draw(SPECULATIVE)
    reply = call(app, "POST", path, json.dumps(body).encode())
    if reply.status != 200:
        wrong = error(reply, 404 if reply.status == 404 else 400)
        assert wrong["message"]
        assert "\n" not in wrong["message"]
