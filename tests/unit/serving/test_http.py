"""The routes, over a target that the tests script."""

import json
import threading
from collections.abc import Iterable
from typing import Any

import pytest
from fastapi import FastAPI

from specrouter_dist.engine.interface import TokenLogprobs
from specrouter_dist.links.control import Failed, Submit
from specrouter_dist.pools.checks import PoolReport
from specrouter_dist.pools.loading import Pool
from specrouter_dist.serving import http
from specrouter_dist.text.tokenizer import Tokenizer
from tests.unit.serving.asgi import call, call_and_hang_up
from tests.unit.serving.calls import COMPLETIONS, USER, chat, complete, error
from tests.unit.serving.scripted import ROUNDS, Message, ScriptedClient, output

TOKENS = [token for tokens in ROUNDS for token in tokens]


# -- whole answers ---------------------------------------------------------------------------------


def test_a_completion_has_openais_shape(
    app: FastAPI, client: ScriptedClient, tokenizer: Tokenizer
) -> None:
    reply = complete(app, seed=5)
    answer = reply.json()
    assert (reply.status, reply.headers["content-type"]) == (200, "application/json")
    assert answer["object"] == "text_completion"
    assert answer["id"].startswith("cmpl-")
    assert (answer["model"], answer["seed"]) == ("tiny", 5)
    assert answer["choices"] == [
        {
            "index": 0,
            "text": tokenizer.detokenizer().push(TOKENS),
            "logprobs": None,
            "finish_reason": "length",
            "seed": 5,
        }
    ]
    num_prompt = len(client.submits[0].prompt)
    assert answer["usage"] == {
        "prompt_tokens": num_prompt,
        "completion_tokens": 6,
        "total_tokens": num_prompt + 6,
    }
    assert client.cancelled == []


def test_a_conversation_has_openais_shape(
    app: FastAPI, client: ScriptedClient, tokenizer: Tokenizer
) -> None:
    answer = chat(app).json()
    assert answer["object"] == "chat.completion"
    assert answer["id"].startswith("chatcmpl-")
    assert answer["choices"][0]["message"] == {
        "role": "assistant",
        "content": tokenizer.detokenizer().push(TOKENS),
    }
    assert client.submits[0].prompt == tokenizer.encode_chat(USER)


def test_metrics_stand_at_the_root_in_vllms_shape(app: FastAPI) -> None:
    metrics = complete(app).json()["metrics"]
    assert metrics["speculative_decoding"] == {
        "mean_acceptance_length": 1 + 4 / 3,
        "draft_acceptance_rate": 4 / 9,
        "acceptance_histogram": [1, 0, 2, 0],
        "acceptance_histogram_by_draft_length": {"3": [1, 0, 2, 0]},
        "num_spec_steps": 3,
        "num_draft_tokens": 9,
        "num_accepted_draft_tokens": 4,
        "num_spec_tokens": 3,
    }
    assert metrics["levels"] == [
        {
            "draft": "small",
            "verifier": "target",
            "proposed": 9,
            "accepted": 4,
            "rounds": 3,
            "truncations": 2,
        }
    ]
    assert metrics["chain"] == ["small", "target"]


def test_without_a_seed_one_is_drawn_and_told(app: FastAPI, client: ScriptedClient) -> None:
    seeds = [complete(app).json()["seed"] for _ in range(3)]
    assert len(set(seeds)) == 3
    assert seeds == [submit.sampling.seed for submit in client.submits]
    assert all(0 <= seed < 1 << 63 for seed in seeds)


def test_token_ids_are_a_prompt_too(app: FastAPI, client: ScriptedClient) -> None:
    assert complete(app, prompt=[5, 6, 7]).status == 200
    assert complete(app, prompt=[[5, 6, 7]]).status == 200
    assert [submit.prompt.tolist() for submit in client.submits] == [[5, 6, 7]] * 2


def test_the_chain_is_the_routers_the_targets_or_the_users(
    app: FastAPI, client: ScriptedClient
) -> None:
    for speculative in (None, True, False, {"chain": ["small", "medium", "target"]}):
        assert complete(app, speculative=speculative).status == 200
    plans = [submit.plan for submit in client.submits]
    assert plans[:2] == [None, None]
    assert [plan.chain for plan in plans[2:] if plan] == [
        ("target",),
        ("small", "medium", "target"),
    ]


def test_eos_ends_a_request_unless_it_is_ignored(
    app: FastAPI, client: ScriptedClient, report: PoolReport
) -> None:
    complete(app, stop_token_ids=[9])
    complete(app, stop_token_ids=[9], ignore_eos=True)
    stops = [set(submit.sampling.stop_token_ids) for submit in client.submits]
    assert stops == [report.eos_ids | {9}, {9}]


# -- streams ---------------------------------------------------------------------------------------


def test_a_stream_has_one_event_per_round(app: FastAPI, tokenizer: Tokenizer) -> None:
    reply = complete(app, stream=True, seed=5)
    assert reply.status == 200
    assert reply.headers["content-type"].startswith("text/event-stream")
    assert "content-length" not in reply.headers
    assert len(reply.parts) == len(ROUNDS) + 1, "events are sent one by one"
    *events, done = reply.events()
    assert done == "[DONE]"
    detokenizer = tokenizer.detokenizer()
    assert [e["choices"][0]["text"] for e in events] == [detokenizer.push(r) for r in ROUNDS]
    assert [e["choices"][0]["finish_reason"] for e in events] == [None, None, "length"]
    assert {e["seed"] for e in events} == {5}
    assert len({e["id"] for e in events}) == 1
    assert all("usage" not in e for e in events)


def test_a_streamed_conversation_names_its_role_once(app: FastAPI, tokenizer: Tokenizer) -> None:
    *events, _ = chat(app, stream=True).events()
    deltas = [event["choices"][0]["delta"] for event in events]
    assert [delta.get("role") for delta in deltas] == ["assistant", None, None]
    assert "".join(d["content"] for d in deltas) == tokenizer.detokenizer().push(TOKENS)
    assert {event["object"] for event in events} == {"chat.completion.chunk"}


def test_usage_and_metrics_come_last_when_asked_for(app: FastAPI) -> None:
    options = {"include_usage": True}
    *events, last, _ = complete(app, stream=True, stream_options=options).events()
    assert [event["usage"] for event in events] == [None] * 3
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == 6
    assert last["metrics"]["speculative_decoding"]["num_draft_tokens"] == 9


def test_continuous_usage_counts_as_it_goes(app: FastAPI) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    *events, _ = complete(app, stream=True, stream_options=options).events()
    assert [event["usage"]["completion_tokens"] for event in events] == [3, 4, 6, 6]


# -- log-probabilities -----------------------------------------------------------------------------


def with_logprobs(submit: Submit) -> Iterable[Message]:
    """Two rounds; the second token is half a character and its logarithm infinite."""
    half = TokenLogprobs(130, float("-inf"), ((131, -0.25),))
    yield output(submit, 0, [40], None, (TokenLogprobs(40, -0.5, ((40, -0.5), (41, -1.5))),))
    yield output(submit, 1, [130], "length", (half,))


@pytest.fixture
def half_character(tokenizer: Tokenizer) -> str:
    raw = tokenizer.token_bytes(130)
    with pytest.raises(UnicodeDecodeError):
        raw.decode()
    return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)


def test_completions_log_probabilities(
    app: FastAPI, client: ScriptedClient, tokenizer: Tokenizer, half_character: str
) -> None:
    client.script = with_logprobs
    first, second, likeliest = (tokenizer.token_bytes(i).decode("latin1") for i in (40, 41, 131))
    likeliest = "bytes:" + "".join(f"\\x{byte:02x}" for byte in tokenizer.token_bytes(131))
    expected = {
        "tokens": [first, half_character],
        "token_logprobs": [-0.5, -9999.0],
        "top_logprobs": [{first: -0.5, second: -1.5}, {likeliest: -0.25, half_character: -9999.0}],
        "text_offset": [0, len(first)],
    }
    assert complete(app, logprobs=2).json()["choices"][0]["logprobs"] == expected
    *events, _ = complete(app, logprobs=2, stream=True).events()
    parts = [event["choices"][0]["logprobs"] for event in events]
    assert {key: parts[0][key] + parts[1][key] for key in expected} == expected


def test_conversations_log_probabilities(
    app: FastAPI, client: ScriptedClient, tokenizer: Tokenizer, half_character: str
) -> None:
    client.script = with_logprobs
    content = chat(app, logprobs=True, top_logprobs=1).json()["choices"][0]["logprobs"]["content"]
    assert client.submits[0].sampling.logprobs == 1
    assert content[0]["bytes"] == list(tokenizer.token_bytes(40))
    assert [candidate["logprob"] for candidate in content[0]["top_logprobs"]] == [-0.5, -1.5]
    assert (content[1]["token"], content[1]["logprob"]) == (half_character, -9999.0)


# -- errors ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"temperature": -1}, "temperature", "greater than or equal to 0"),
        ({"prompt": ""}, "prompt", "empty"),
        ({"prompt": [4096]}, "prompt", "token ids lie in [0, 4096), got 4096"),
        ({"prompt": [5] * 2048}, "prompt", "2048 tokens; at most 2047 fit the context of 2048"),
        ({"logit_bias": {"4096": 1}}, "logit_bias", "token ids lie in [0, 4096)"),
        ({"stop_token_ids": [9999]}, "stop_token_ids", "token ids lie in [0, 4096)"),
        ({"prompt": [5] * 2040, "max_tokens": 9}, "max_tokens", "9 tokens behind a prompt of 2040"),
        ({"prompt": [[5], [5] * 2040], "max_tokens": 9}, "max_tokens", "2048 has room for 8"),
        ({"prompt": [5], "max_tokens": 4_000_000_000}, "max_tokens", "2048 has room for 2047"),
        ({"prompt": [5], "max_tokens": 1 << 70}, "max_tokens", "2048 has room for 2047"),
        ({"prompt": [5] * 2040, "min_tokens": 9}, "min_tokens", "9 tokens behind a prompt of 2040"),
        ({"prompt": [5] * 2040, "min_tokens": 8, "max_tokens": 7}, None, "must not be above"),
        ({"min_tokens": 17}, None, "min_tokens (17) must not be above max_tokens (16)"),
        ({"speculative": {"chain": ["smal", "target"]}}, "speculative.chain", "mean 'small'?"),
        ({"speculative": {"chain": ["small"]}}, "speculative.chain", "does not end in 'target'"),
        ({"frobnicate": 1}, "frobnicate", "unknown field"),
    ],
)
def test_bad_input_is_400_and_names_the_field(
    app: FastAPI, client: ScriptedClient, fields: dict[str, Any], param: str | None, words: str
) -> None:
    for stream in (False, True):
        wrong = error(complete(app, stream=stream, **fields), 400)
        assert wrong["type"] == "invalid_request_error"
        assert wrong["param"] == param
        assert words in wrong["message"]
    assert client.submits == []


def test_what_fits_the_context_exactly_is_taken_and_defaults_are_cut(
    app: FastAPI, client: ScriptedClient
) -> None:
    prompt = [5] * 2040
    assert complete(app, prompt=prompt, max_tokens=8, min_tokens=8).status == 200
    assert complete(app, prompt=prompt).status == 200
    assert complete(app, prompt=prompt, min_tokens=8).status == 200
    assert complete(app, prompt=[5]).status == 200
    assert [submit.sampling.max_tokens for submit in client.submits] == [8, 8, 8, 16]


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens", "min_tokens"])
def test_a_conversation_has_the_rest_of_the_context_and_no_more(
    app: FastAPI, client: ScriptedClient, tokenizer: Tokenizer, field: str
) -> None:
    room = 2048 - len(tokenizer.encode_chat(USER))
    assert chat(app, **{field: room}).status == 200
    assert client.submits[0].sampling.max_tokens == room
    wrong = error(chat(app, **{field: room + 1}), 400)
    assert wrong["param"] == field
    assert wrong["message"].startswith(f"{field}: {room + 1} tokens behind a prompt of ")
    assert len(client.submits) == 1


def test_a_conversation_that_is_too_long_is_400(app: FastAPI) -> None:
    messages = [{"role": "user", "content": "word " * 3000}]
    wrong = error(chat(app, messages=messages), 400)
    assert wrong["param"] == "messages"
    assert "fit the context of 2048" in wrong["message"]


@pytest.mark.parametrize("body", [b"{", b"\xff", b'{"prompt": NaN}', b'{"prompt":"a","top_p":NaN}'])
def test_a_body_that_is_no_request_is_400(app: FastAPI, body: bytes) -> None:
    error(call(app, "POST", COMPLETIONS, body), 400)


def test_an_unknown_model_is_404(app: FastAPI) -> None:
    for reply in (complete(app, model="gpt-4"), call(app, "GET", "/v1/models/gpt-4")):
        wrong = error(reply, 404)
        assert (wrong["param"], wrong["code"]) == ("model", "model_not_found")
        assert "accepted: tiny" in wrong["message"]


def test_unknown_routes_and_methods_have_openais_shape_too(app: FastAPI) -> None:
    error(call(app, "GET", "/v1/nothing"), 404)
    error(call(app, "GET", COMPLETIONS), 405)


def test_a_huge_body_is_413(app: FastAPI, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "MAX_BODY_BYTES", 50)
    assert complete(app).status == 200
    error(complete(app, prompt="a" * 50), 413)


@pytest.mark.parametrize(
    ("kind", "status", "retry_after"),
    [
        ("NoRoomError", 429, "1"),
        ("UnavailableError", 503, "5"),
        ("RequestError", 400, None),
        ("EngineError", 500, None),
    ],
)
def test_what_the_target_refuses_becomes_a_status(
    app: FastAPI, client: ScriptedClient, kind: str, status: int, retry_after: str | None
) -> None:
    client.script = lambda submit: [Failed(submit.request, kind, "the reason")]
    for stream in (False, True):
        reply = complete(app, stream=stream)
        wrong = error(reply, status)
        assert reply.headers.get("retry-after") == retry_after
        assert "the reason" in wrong["message"] or status == 500
    assert client.cancelled == [], "what has ended need not be cancelled"


def test_a_stream_that_fails_midway_says_so_and_closes(
    app: FastAPI, client: ScriptedClient
) -> None:
    def breaks(submit: Submit) -> Iterable[Message]:
        yield output(submit, 0, [10])
        yield Failed(submit.request, "UnavailableError", "the target was lost")

    client.script = breaks
    reply = complete(app, stream=True)
    assert (reply.status, reply.complete) == (200, True)
    first, last = reply.events()
    assert first["choices"][0]["finish_reason"] is None
    assert last["error"]["message"] == "the target was lost"
    assert last["error"]["code"] == "unavailable"


# -- closed connections ----------------------------------------------------------------------------


@pytest.mark.parametrize("problem", [None, RuntimeError("the task was cancelled")])
@pytest.mark.parametrize(("stream", "after_parts"), [(True, 2), (True, 0), (False, 0)])
def test_a_closed_connection_cancels_the_request(
    app: FastAPI,
    client: ScriptedClient,
    stream: bool,
    after_parts: int,
    problem: Exception | None,
) -> None:
    never = threading.Event()

    def goes_on(submit: Submit) -> Iterable[Message]:
        for i in range(after_parts):
            yield output(submit, i, [10 + i])
        never.wait(10)

    client.script = goes_on
    body = {"prompt": "Hello", "stream": stream}
    reply = call_and_hang_up(app, COMPLETIONS, body, after_parts=after_parts, problem=problem)
    never.set()
    assert len(reply.parts) == after_parts
    assert not reply.complete
    assert client.cancelled == [client.submits[0].request]


# -- models ----------------------------------------------------------------------------------------


def test_models_are_listed_with_their_root(app: FastAPI, pool: Pool) -> None:
    listed = call(app, "GET", "/v1/models").json()
    assert listed["object"] == "list"
    (card,) = listed["data"]
    assert (card["id"], card["object"], card["max_model_len"]) == ("tiny", "model", 2048)
    assert card["root"] == str(pool.directories["target"])
    assert [m["name"] for m in card["members"]] == ["lookup", "small", "medium", "target"]
    assert call(app, "GET", "/v1/models/tiny").json() == card


def test_events_are_strict_json(app: FastAPI, client: ScriptedClient) -> None:
    client.script = with_logprobs

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    for event in complete(app, stream=True, logprobs=1).body.decode().split("\n\n")[:-2]:
        json.loads(event.removeprefix("data: "), parse_constant=refuse)
