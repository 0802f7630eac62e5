"""What a line asks for, and how each kind of wrong line is told."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from specrouter_dist.batch.lines import Line
from specrouter_dist.batch.rows import CHAT, COMPLETIONS, Row, parse_row
from specrouter_dist.speculation.noise import derive_seed

MESSAGES = [{"role": "user", "content": "Hi"}]


def parse(content: Any, *, index: int = 0, seed: int = 3, **defaults: Any) -> Row:
    raw = content if isinstance(content, bytes) else json.dumps(content).encode()
    return parse_row(Line(index, index + 1, raw), seed=seed, defaults=defaults)


def openai(**changes: Any) -> dict[str, Any]:
    body = {"prompt": "Hi", "max_tokens": 2}
    row = {"custom_id": "a", "method": "POST", "url": COMPLETIONS, "body": body}
    return {**row, **changes}


def test_an_openai_row_is_its_body_with_a_seed() -> None:
    row = parse(openai(), index=4)
    assert (row.custom_id, row.url, row.carried, row.problem) == ("a", COMPLETIONS, None, None)
    assert row.body == {"prompt": "Hi", "max_tokens": 2, "seed": derive_seed(3, 0, 4)}
    chat = parse(openai(url=CHAT, body={"messages": MESSAGES, "seed": 9}))
    assert (chat.url, chat.body) == (CHAT, {"messages": MESSAGES, "seed": 9})


def test_a_plain_row_carries_what_is_no_field() -> None:
    further = {"id": 7, "answer": None, "task": {"kind": "x"}, "custom_id": "a", "url": "u"}
    row = parse({"prompt": "Hi", "top_k": 5, "tools": None, **further})
    assert (row.url, row.carried) == (COMPLETIONS, further)
    assert row.body == {"prompt": "Hi", "top_k": 5, "seed": 3}
    assert parse({"messages": MESSAGES, "prompt": None}).url == CHAT


def test_defaults_are_for_rows_that_do_not_say() -> None:
    defaults = {"max_tokens": 8, "temperature": 0.5}
    assert parse({"prompt": "a", "temperature": 0}, **defaults).body == {
        "prompt": "a",
        "temperature": 0,
        "max_tokens": 8,
        "seed": 3,
    }
    newer = parse({"messages": MESSAGES, "max_completion_tokens": 4}, **defaults).body
    assert newer is not None
    assert "max_tokens" not in newer


def test_seeds_are_those_of_generate() -> None:
    seeds = [(parse({"prompt": "a"}, index=i).body or {})["seed"] for i in range(3)]
    assert seeds == [3, derive_seed(3, 0, 1), derive_seed(3, 0, 2)]


BAD = [
    (b"nonsense", "no valid JSON at column 1: Expecting value"),
    (b'{"prompt": "a"', "no valid JSON at column 15"),
    (b"\xff", "not UTF-8 at byte 1"),
    (b'{"prompt": NaN}', "no usable JSON: NaN is no JSON number"),
    (b'{"prompt": "\\ud800"}', "no valid Unicode: it spells a lone surrogate"),
    (b'{"prompt": "a", "id": "\\udfff"}', "no valid Unicode"),
    (b"[" * 100_000, "no usable JSON: "),
    (b'{"a": ' + b"9" * 5000 + b"}", "no usable JSON: "),
    ([1], "must be a JSON object, got [1]"),
    ({}, "exactly one of 'prompt' and 'messages' is needed, or OpenAI's"),
    ({"prompt": "a", "messages": MESSAGES}, "'url' and 'body'; got both"),
    ({"prompt": "a", "temprature": 1}, "temprature: unknown field (did you mean 'temperature'?)"),
    ({"prompt": "a", "response_format": {"type": "json_object"}}, "response_format: not supported"),
    ({"prompt": "a", "stream": True}, "stream: a batch gives whole answers"),
    (openai(body={"prompt": "a", "stream": True}), "stream: a batch gives whole answers"),
    (openai(method="GET"), "method: input should be 'POST', got 'GET'"),
    (openai(url="/v1/embeddings"), "url: input should be '/v1/completions' or '/v1/chat/compl"),
    (openai(body="x"), "body: input should be"),
    (openai(custom_id=1), "custom_id: input should be a valid string, got 1"),
    (openai(custom_id=None), "custom_id: missing"),
    (openai(id=1), "id: unknown field"),
    ({"body": {}}, "custom_id: missing (and 2 more)"),
    ({"prompt": None, "body": {}}, "exactly one of 'prompt' and 'messages' is needed"),
]


@pytest.mark.parametrize(("content", "message"), BAD, ids=[message[:30] for _, message in BAD])
def test_bad_rows_say_what_is_wrong(content: Any, message: str) -> None:
    row = parse(content)
    assert row.body is None
    assert message in str(row.problem)


def test_bad_rows_keep_what_they_are_known_by() -> None:
    assert parse(openai(method="GET")).custom_id == "a"
    assert parse({"prompt": "a", "stream": True, "id": 5}).carried == {"id": 5}
    too_long = Line(0, 1, b"{", is_whole=False)
    problem = parse_row(too_long, seed=0, defaults={}).problem
    assert str(problem).startswith("longer than ")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["prompt", "messages", "custom_id", "method", "url", "body", "n", "x"])
            | st.text(max_size=4),
            inner,
            max_size=4,
        )
    ),
    max_leaves=8,
)


@given(JSON.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=40))
def test_any_line_is_a_request_or_a_problem(content: bytes) -> None:
    row = parse_row(Line(0, 1, content), seed=0, defaults={})
    assert (row.body is None) == (row.problem is not None)


def test_the_rows_of_the_documentation_are_requests() -> None:
    text = (Path(__file__).parents[3] / "docs" / "batch.md").read_bytes()
    rows = [line for line in text.splitlines() if line.startswith((b'{"prompt"', b'{"messages"'))]
    rows += [line for line in text.splitlines() if line.startswith(b'{"custom_id"')]
    assert len(rows) == 4
    assert [parse(row).problem for row in rows] == [None] * 4
