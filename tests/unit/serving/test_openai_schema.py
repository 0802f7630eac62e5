"""Every field that is wrong is named, with what would be right."""

import json
from typing import Any

import pytest

from specrouter_dist.errors import RequestError
from specrouter_dist.serving.json_body import parse_body
from specrouter_dist.serving.openai_schema import (
    MAX_CHOICES,
    ChatRequest,
    CompletionRequest,
    Speculation,
)

BLOCKS = "speculative.num_speculative_tokens"


def completion(**fields: Any) -> CompletionRequest:
    return parse_body(CompletionRequest, json.dumps({"prompt": "a", **fields}).encode())


def chat(**fields: Any) -> ChatRequest:
    messages = [{"role": "user", "content": "a"}]
    return parse_body(ChatRequest, json.dumps({"messages": messages, **fields}).encode())


def sampling_error(request: CompletionRequest | ChatRequest) -> RequestError:
    with pytest.raises(RequestError) as caught:
        request.to_sampling(seed=1, max_tokens=5)
    return caught.value


def test_defaults_are_openais() -> None:
    request = completion()
    params = request.to_sampling(seed=5, max_tokens=100)
    assert (params.max_tokens, params.temperature, params.seed) == (16, 1.0, 5)
    assert (params.logprobs, params.stop) == (None, ())
    assert (request.stream, request.speculative) == (False, Speculation())


def test_a_conversation_may_use_the_rest_of_the_context() -> None:
    assert chat().to_sampling(seed=5, max_tokens=100).max_tokens == 100
    assert chat(max_tokens=7).to_sampling(seed=5, max_tokens=100).max_tokens == 7
    assert chat(max_completion_tokens=8).to_sampling(seed=5, max_tokens=100).max_tokens == 8


def test_every_sampling_field_arrives() -> None:
    fields: dict[str, Any] = {
        "max_tokens": 9,
        "min_tokens": 2,
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 40,
        "min_p": 0.1,
        "seed": (1 << 64) - 1,
        "stop": ["x", "y"],
        "stop_token_ids": [3, 4],
        "ignore_eos": True,
        "logit_bias": {"5": -100},
        "presence_penalty": 0.1,
        "frequency_penalty": 0.2,
        "repetition_penalty": 1.5,
        "logprobs": 3,
    }
    params = completion(**fields, echo=True).to_sampling(seed=1, max_tokens=100)
    expected = {
        **fields,
        "prompt_logprobs": 3,
        "stop": ("x", "y"),
        "stop_token_ids": (3, 4),
        "logit_bias": {5: -100.0},
    }
    assert params.model_dump() == expected


def test_a_flag_stands_for_an_object() -> None:
    assert completion(speculative=True).speculative == Speculation()
    assert completion(speculative=False).speculative == Speculation(num_speculative_tokens=0)
    nulls = {"chain": None, "num_speculative_tokens": None}
    assert completion(speculative=nulls).speculative == Speculation()


def test_what_changes_nothing_is_taken() -> None:
    extras = {"best_of": 1, "skip_special_tokens": True, "tools": None, "store": False}
    assert completion(**extras) == completion()
    assert chat(response_format={"type": "text"}, tool_choice="none") == chat()


def test_null_means_absent() -> None:
    request = completion(stop=None, seed=None, stream_options=None, temperature=None, n=None)
    assert request == completion()
    assert completion(stream=True, stream_options={"include_usage": None}).includes_usage is False


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("b", ("b",)),
        (["b"], ("b",)),
        (["b", "c"], ("b", "c")),
        ([1, 2], ((1, 2),)),
        ([[1, 2]], ((1, 2),)),
        ([[1, 2], [3]], ((1, 2), (3,))),
    ],
)
def test_prompts_are_texts_or_ids_and_one_may_stand_alone(prompt: Any, expected: Any) -> None:
    assert completion(prompt=prompt).prompt == expected


@pytest.mark.parametrize(("num_prompts", "n"), [(MAX_CHOICES, 1), (1, MAX_CHOICES), (2, 64)])
def test_choices_are_bounded(num_prompts: int, n: int) -> None:
    prompts = ["a"] * num_prompts
    assert len(completion(prompt=prompts, n=n).prompt) == num_prompts
    with pytest.raises(RequestError, match="at most 128 choices per request") as caught:
        completion(prompt=[*prompts, "a"], n=n)
    assert caught.value.field == ("n" if n > 1 else "prompt")


@pytest.mark.parametrize(
    ("fields", "field", "words"),
    [
        ({"prompt": ["a", [1]]}, "prompt", "a list of either"),
        ({"prompt": [[1], 2]}, "prompt", "a list of either"),
        ({"prompt": ""}, "prompt", "empty; at least one character"),
        ({"prompt": ["a", ""]}, "prompt", "number 1 of the list is empty"),
        ({"prompt": []}, "prompt", "empty; at least one character or token"),
        ({"prompt": [[]]}, "prompt", "number 0 of the list is empty"),
        ({"prompt": [1, -2]}, "prompt", "a list of token ids"),
        ({"prompt": [1, True]}, "prompt", "a list of token ids"),
        ({"prompt": [1, 1 << 32]}, "prompt", "a list of token ids"),
        ({"prompt": 5}, "prompt", "must be a text"),
        ({"prompt": None}, "prompt", "missing"),
        ({"n": 0}, "n", "greater than or equal to 1"),
        ({"n": 129}, "n", "less than or equal to 128"),
        ({"n": True}, "n", "valid integer"),
        ({"max_tokens": "5"}, "max_tokens", "valid integer"),
        ({"max_tokens": True}, "max_tokens", "valid integer"),
        ({"temperature": "hot"}, "temperature", "valid number"),
        ({"stream": 1}, "stream", "valid boolean"),
        ({"stop": [1]}, "stop[0]", "valid string"),
        ({"logit_bias": [1]}, "logit_bias", "dictionary"),
        ({"logit_bias": {"-5": 1}}, "logit_bias.-5", "match pattern"),
        ({"logit_bias": {"5.0": 1}}, "logit_bias.5.0", "match pattern"),
        ({"logit_bias": {str(i): 1 for i in range(1025)}}, "logit_bias", "at most 1024"),
        ({"stop_token_ids": [1] * 1025}, "stop_token_ids", "at most 1024"),
        ({"stop": "x" * 1025}, "stop[0]", "at most 1024"),
        ({"model": 3}, "model", "valid string"),
        ({"speculative": "no"}, "speculative", 'must be false, or {"chain"'),
        ({"speculative": []}, "speculative", 'must be false, or {"chain"'),
        ({"speculative": {"chain": []}}, "speculative.chain", "at least 1 item"),
        ({"speculative": {"chain": "a,b"}}, "speculative.chain", "valid list"),
        ({"speculative": {"chain": [1]}}, "speculative.chain[0]", "valid string"),
        ({"speculative": {"chain": ["a"], "depth": 3}}, "speculative.depth", "unknown field"),
        ({"speculative": {"num_speculative_tokens": -1}}, BLOCKS, "greater than or equal to 0"),
        ({"speculative": {"num_speculative_tokens": 17}}, BLOCKS, "less than or equal to 16"),
        ({"speculative": {"num_speculative_tokens": True}}, BLOCKS, "valid integer"),
        (
            {"speculative": {"chain": ["a", "b"], "num_speculative_tokens": 0}},
            BLOCKS,
            "0 goes with the target alone, got 0 with a chain of 2",
        ),
        (
            {"speculative": {"chain": ["b"], "num_speculative_tokens": 3}},
            BLOCKS,
            "0 goes with the target alone, got 3 with a chain of 1",
        ),
        ({"stream_options": {"include_usage": True}}, "stream_options", 'needs "stream": true'),
        (
            {"stream": True, "stream_options": {"include_usages": True}},
            "stream_options.include_usages",
            "did you mean 'include_usage'?",
        ),
        ({"temprature": 0}, "temprature", "did you mean 'temperature'?"),
        ({"best_of": 2}, "best_of", "not supported but for 1, got 2"),
        ({"best_of": True}, "best_of", "not supported but for 1, got True"),
        ({"suffix": "b"}, "suffix", "not supported but for"),
        ({"guided_json": {}}, "guided_json", "not supported, got {}"),
        ({"skip_special_tokens": False}, "skip_special_tokens", "not supported but for true"),
        ({"echo": 1}, "echo", "valid boolean"),
        ({"echo": True, "max_tokens": 0, "min_tokens": 1}, "min_tokens", "max_tokens (0), got 1"),
    ],
)
def test_a_wrong_field_is_named(fields: dict[str, Any], field: str, words: str) -> None:
    with pytest.raises(RequestError) as caught:
        completion(**fields)
    assert caught.value.field == field
    assert words in str(caught.value)
    assert str(caught.value).startswith(field)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"temperature": -1}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"top_p": 1.5}, "top_p"),
        ({"top_k": -2}, "top_k"),
        ({"min_p": -0.1}, "min_p"),
        ({"seed": -1}, "seed"),
        ({"seed": 1 << 64}, "seed"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": -3, "echo": True}, "max_tokens"),
        ({"max_tokens": 0, "echo": True, "temperature": -1}, "temperature"),
        ({"max_tokens": -3}, "max_tokens"),
        ({"min_tokens": -1}, "min_tokens"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"presence_penalty": float("inf")}, "presence_penalty"),
        ({"frequency_penalty": 3}, "frequency_penalty"),
        ({"logit_bias": {"5": 101}}, "logit_bias.5"),
        ({"max_tokens": 1 << 32}, "max_tokens"),
        ({"top_k": 1 << 32}, "top_k"),
        ({"logit_bias": {"5": float("nan")}}, "logit_bias.5"),
        ({"stop": ""}, "stop[0]"),
        ({"stop": ["x"] * 17}, "stop"),
        ({"stop_token_ids": [-1]}, "stop_token_ids[0]"),
        ({"logprobs": 21}, "logprobs"),
        ({"logprobs": -1}, "logprobs"),
    ],
)
def test_a_value_out_of_range_is_named(fields: dict[str, Any], field: str) -> None:
    error = sampling_error(completion(**fields))
    assert error.field is not None and error.field.startswith(field)
    assert str(error).startswith(field)


@pytest.mark.parametrize(
    ("fields", "field", "words"),
    [
        ({"messages": [{"role": "user"}]}, "messages[0].content", "missing"),
        ({"messages": [{"role": "user", "content": 1}]}, "messages[0].content", "valid string"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
            "messages[0].content",
            "parts must be texts",
        ),
        ({"messages": [{"role": "u", "content": "a", "tool_calls": []}]}, "messages[0]", "unknown"),
        ({"messages": "hello"}, "messages", "valid list"),
        ({"prompt": "a"}, "prompt", "unknown field"),
        ({"echo": True}, "echo", "unknown field"),
        ({"top_logprobs": 3}, "top_logprobs", 'needs "logprobs": true'),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "less than or equal to 20"),
        ({"logprobs": 5}, "logprobs", "valid boolean"),
        ({"max_tokens": 1, "max_completion_tokens": 1}, "max_completion_tokens", "newer name"),
        ({"max_completion_tokens": 0}, "max_completion_tokens", "greater than or equal to 1"),
        ({"tools": [{"type": "function"}]}, "tools", "not supported"),
        ({"functions": []}, "functions", "not supported"),
        ({"tool_choice": "auto"}, "tool_choice", 'not supported but for "none"'),
        ({"response_format": {"type": "json_object"}}, "response_format", "not supported"),
        ({"messages": 5, "tools": []}, "tools", "not supported"),
    ],
)
def test_a_wrong_field_of_a_conversation_is_named(
    fields: dict[str, Any], field: str, words: str
) -> None:
    with pytest.raises(RequestError) as caught:
        chat(**fields)
    assert (caught.value.field or "").startswith(field)
    assert words in str(caught.value)


def test_text_parts_are_one_text() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert chat(messages=[{"role": "user", "content": parts}]).messages[0].content == "ab"


def test_log_probabilities_of_a_conversation() -> None:
    assert chat().num_logprobs is None
    assert chat(logprobs=False).num_logprobs is None
    assert chat(logprobs=True).num_logprobs == 0
    assert chat(logprobs=True, top_logprobs=3).num_logprobs == 3


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "no valid JSON at line 1, column 1"),
        (b'{"prompt": "a"', "no valid JSON"),
        (b'{"prompt": "\xff"}', "not UTF-8 at byte 13"),
        (b"[]", "must be a JSON object, got []"),
        (b"3", "must be a JSON object"),
        (b"[" * 100_000, "no usable JSON"),
        (b'{"prompt": "a", "seed": ' + b"9" * 5000 + b"}", "no usable JSON"),
        (rb'{"prompt": "a\ud800b"}', "prompt: no valid Unicode: a lone surrogate at character 1"),
        (rb'{"prompt": "a", "stop": ["b", "\udc00"]}', "stop[1]: no valid Unicode"),
        (rb'{"prompt": "a", "\ud800": 1}', "body: no valid Unicode"),
    ],
)
def test_a_body_that_is_no_json_is_refused(body: bytes, words: str) -> None:
    with pytest.raises(RequestError) as caught:
        parse_body(CompletionRequest, body)
    assert words in str(caught.value)


def test_escaped_characters_are_text() -> None:
    body = rb'{"prompt": "\ud83d\ude00 \u00e4"}'
    assert parse_body(CompletionRequest, body).prompt == ("\U0001f600 ä",)
