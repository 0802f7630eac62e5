"""Bodies of millions of wrong elements: one is told, or that they are too many."""

import json
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest

from specrouter_dist.errors import RequestError
from specrouter_dist.serving.conversations import MAX_MESSAGES
from specrouter_dist.serving.json_body import Body, parse_fields
from specrouter_dist.serving.openai_schema import (
    MAX_LISTED,
    ChatRequest,
    CompletionRequest,
)
from specrouter_dist.serving.tokenizing import TokenizeRequest
from specrouter_dist.validation import shown

MIB = 1024 * 1024
MANY = 100_000
"""Each error of pydantic's takes a kilobyte as a dictionary; a body has room for ten millions."""
HOSTILE: dict[str, tuple[type[Body], Callable[[], dict[str, Any]], str]] = {
    "messages": (ChatRequest, lambda: {"messages": [1] * MANY}, "messages[0]"),
    "empty messages": (ChatRequest, lambda: {"messages": [{}] * MANY}, "messages[0].role"),
    "unknown names in messages": (
        ChatRequest,
        lambda: {"messages": [{"role": "a", "content": "b"} | numbered()]},
        "messages[0].x0",
    ),
    "unknown names to be tokenized": (
        TokenizeRequest,
        lambda: {"messages": [{"role": "a", "content": "b"} | numbered()]},
        "messages[0].x0",
    ),
    "tokenize": (TokenizeRequest, lambda: {"messages": [1] * MANY}, "messages[0]"),
    "stop": (CompletionRequest, lambda: {"prompt": "a", "stop": [1] * MANY}, "stop"),
    "stop_token_ids": (
        CompletionRequest,
        lambda: {"prompt": "a", "stop_token_ids": ["x"] * MANY},
        "stop_token_ids",
    ),
    "logit_bias": (
        CompletionRequest,
        lambda: {"prompt": "a", "logit_bias": numbered()},
        "logit_bias",
    ),
    "chain": (
        CompletionRequest,
        lambda: {"prompt": "a", "speculative": {"chain": [1] * MANY}},
        "speculative.chain",
    ),
    "prompts": (CompletionRequest, lambda: {"prompt": ["a"] * MANY}, "prompt"),
    "unknown names": (CompletionRequest, lambda: {"prompt": "a"} | numbered(), "x0"),
    "unknown names within": (
        CompletionRequest,
        lambda: {"prompt": "a", "stream_options": numbered()},
        "stream_options.x0",
    ),
    "a nested value": (CompletionRequest, lambda: {"prompt": {"a": [[1] * MANY]}}, "prompt"),
}


def numbered() -> dict[str, int]:
    return {f"x{i}": i for i in range(MANY)}


@pytest.mark.parametrize("case", HOSTILE)
def test_one_that_is_wrong_is_told_or_that_they_are_too_many(case: str) -> None:
    model, make, field = HOSTILE[case]
    fields = make()
    tracemalloc.start()
    try:
        with pytest.raises(RequestError) as caught:
            parse_fields(model, fields)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert caught.value.field == field
    assert len(str(caught.value)) < 600
    assert peak_bytes < 8 * MIB


def test_a_list_may_be_as_long_as_is_said() -> None:
    message = {"role": "user", "content": "a"}
    assert len(parse_fields(ChatRequest, {"messages": [message] * MAX_MESSAGES}).messages) > 0
    with pytest.raises(RequestError, match=f"at most {MAX_MESSAGES} items"):
        parse_fields(ChatRequest, {"messages": [message] * (MAX_MESSAGES + 1)})
    with pytest.raises(RequestError, match=f"at most {MAX_LISTED} items"):
        parse_fields(CompletionRequest, {"prompt": "a", "stop": ["a"] * (MAX_LISTED + 1)})


@pytest.mark.parametrize(
    "value",
    ["a", "it's", 1, None, True, 1.5, [], {}, [1, "b", [None]], {"a": [1, {"b": 2}], "c": "d"}],
)
def test_what_is_short_is_shown_as_it_is(value: Any) -> None:
    assert shown(value) == repr(value)


@pytest.mark.parametrize(
    "value",
    ["a" * MIB, [[1] * MANY] * 3, {"a": {"b": "c" * MIB}}, json.loads("[" * 900 + "]" * 900)],
)
def test_what_is_long_is_cut(value: Any) -> None:
    assert shown(value) == repr(value)[:57] + "..."
