"""Clients that are wrong, slow or gone, over a real socket: the server answers the next one."""

import json
import socket
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from specrouter_dist.serving.api_keys import load_keys
from specrouter_dist.serving.settings import ServiceSettings
from specrouter_dist.worker.local import LocalPool
from tests.http_server import HttpServer, serving

pytestmark = pytest.mark.timeout(300)

SECRET = "sk-5b1c4f0e93a84d52"
PATH = "/v1/completions"
LONG: dict[str, Any] = {"prompt": "Once upon a time", "max_tokens": 1500, "ignore_eos": True}
MIB = 1024 * 1024


@pytest.fixture(scope="module")
def server(local_pool: LocalPool) -> Iterator[HttpServer]:
    settings = ServiceSettings(body_timeout_s=0.5, stall_timeout_s=0.5)
    keys = load_keys(settings, {"SPECROUTER_API_KEYS": f"{SECRET} name=test"})
    with serving(local_pool, settings, keys) as opened:
        yield opened


@pytest.fixture(autouse=True)
def server_is_well_afterwards(server: HttpServer) -> Iterator[None]:
    yield
    server.wait_until_free()
    reply = post(server, {"prompt": "Hello", "max_tokens": 2, "ignore_eos": True})
    assert (reply.status_code, reply.json()["usage"]["completion_tokens"]) == (200, 2)


def post(server: HttpServer, body: Any, path: str = PATH, secret: str = SECRET) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"Authorization": f"Bearer {secret}", "Content-Type": "application/json"}
    return httpx.post(server.url + path, content=content, headers=headers, timeout=60)


def message(reply: httpx.Response, status: int) -> str:
    assert reply.status_code == status, reply.text
    said: str = reply.json()["error"]["message"]
    assert "\n" not in said and len(said) < 500
    return said


def head(length: int, *, secret: str = SECRET) -> bytes:
    return (
        f"POST {PATH} HTTP/1.1\r\nHost: test\r\nAuthorization: Bearer {secret}\r\n"
        f"Content-Length: {length}\r\n\r\n"
    ).encode()


def connect(server: HttpServer) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=30)


def wait_for_sessions(server: HttpServer) -> None:
    end = time.monotonic() + 20
    while not server.running.worker.num_sessions:
        assert time.monotonic() < end
        time.sleep(0.005)


# -- bodies ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"prompt": "word " * (2 * MIB)}, 400, "fit the context of 2048"),
        ({"prompt": [5] * (3 * MIB)}, 400, "fit the context of 2048"),
        ({"prompt": "a", "stop": ["s" * (10 * MIB)]}, 400, "stop[0]: string should have at most"),
        ({"prompt": "a", "x" * (10 * MIB): 1}, 400, "unknown field"),
        (b" " * (10 * MIB), 400, "no valid JSON"),
        (b" " * (17 * MIB), 413, "longer than 16777216 bytes"),
    ],
    ids=["text", "ids", "stop", "field", "blanks", "more"],
)
def test_ten_megabytes(server: HttpServer, body: Any, status: int, words: str) -> None:
    assert words in message(post(server, body), status)


@pytest.mark.parametrize("depth", [50, 300, 900, 950, 990, 1_000, 5_000, 100_000])
@pytest.mark.parametrize("opening", ["[", '{"a":'])
@pytest.mark.parametrize("field", ["prompt", "logit_bias", "speculative", "typo"])
def test_deep_json(server: HttpServer, depth: int, opening: str, field: str) -> None:
    closing = "]" if opening == "[" else "}"
    inner = opening * depth + '"\\u00e9"' + closing * depth
    rest = "" if field == "prompt" else ', "prompt": "a"'
    message(post(server, f'{{"{field}": {inner}{rest}}}'.encode()), 400)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff\xfe",
        b'{"prompt": "\xc3\x28"}',
        b'{"prompt": "\xed\xa0\x80"}',
        b'{"prompt": "\\ud800"}',
        b'{"prompt": "a", "\\ud800": 1}',
        b'{"prompt": "a\x00"}',
        b'{"prompt": "a"',
        b'{"prompt": "a"}}',
        b'{"prompt": "a", "seed": 1e999}',
        b'{"prompt": "a", "seed": ' + b"9" * 5000 + b"}",
        b'{"prompt": "a", "temperature": NaN}',
        b'[{"prompt": "a"}]',
        b"null",
        b'\xef\xbb\xbf{"prompt": "a"}',
    ],
)
def test_what_is_no_text_and_no_json(server: HttpServer, body: bytes) -> None:
    message(post(server, body), 400)


@pytest.mark.parametrize(
    "token", [-1, 4096, 1 << 31, 1 << 32, 1 << 64, 10**30, 1.0, 1.5, True, "5", None, [], {}]
)
def test_invalid_token_ids(server: HttpServer, token: Any) -> None:
    assert "prompt" in message(post(server, {"prompt": [5, token]}), 400)
    assert "tokens" in message(post(server, {"tokens": [5, token]}, "/detokenize"), 400)
    assert "stop_token_ids" in message(
        post(server, {"prompt": "a", "stop_token_ids": [token]}), 400
    )
    bias = {"prompt": "a", "logit_bias": {str(token): 1}}
    if token != "5":
        assert "logit_bias" in message(post(server, bias), 400)


WRONG: dict[str, list[Any]] = {
    "model": ["gpt-4", 1, []],
    "prompt": ["", [], [[]], ["a", ""], ["a", [5]], [5, "a"], 1, True, {"a": 1}, None],
    "max_tokens": [0, -1, 1.5, "4", True, 1 << 70],
    "min_tokens": [-1, 17, "1", 1 << 70],
    "temperature": [-0.1, 100.1, "0", True, []],
    "top_p": [0, -1, 1.1, "1"],
    "top_k": [-2, 0.5, "1", 1 << 70],
    "min_p": [-0.1, 1.1],
    "seed": [-1, 1 << 64, 0.5, "0"],
    "stop": ["", [""], [1], ["a"] * 17, ["a" * 1025], {}, 1],
    "stop_token_ids": [[-1], [4096], ["5"], 5, [5] * 1025],
    "ignore_eos": [1, "true", []],
    "logit_bias": [{"5": 101}, {"5": -101}, {"-1": 0}, {"x": 0}, {"5": "1"}, [5], {"4096": 0}],
    "presence_penalty": [-2.1, 2.1, "1"],
    "frequency_penalty": [-2.1, 2.1, True],
    "repetition_penalty": [0, -1, 101],
    "n": [0, -1, 129, 1.0, "1", True],
    "stream": [1, "true", []],
    "stream_options": [{"include_usage": True}, {"include": True}, 1, []],
    "timeout": [0, -1, 3601, "1", True],
    "user": [1, {}],
    "speculative": [1, "no", [], {"chain": []}, {"chain": ["huge", "target"]}, {"k": 1}],
    "logprobs": [-1, 21, True, "1"],
    "echo": [1, "true"],
}


@pytest.mark.parametrize("field", WRONG)
def test_every_field_is_checked_and_named(server: HttpServer, field: str) -> None:
    for value in WRONG[field]:
        reply = post(server, {"prompt": "a", field: value})
        said = message(reply, 404 if value == "gpt-4" else 400)
        assert field in said, (value, said)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (PATH, {"prompt": "a"}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}]}),
        ("/tokenize", {"prompt": "a"}),
        ("/detokenize", {"tokens": [5]}),
    ],
)
def test_unknown_fields_are_named(server: HttpServer, path: str, body: dict[str, Any]) -> None:
    for name in ("max_token", "Prompt", "", "\u0000", "__class__", "\U0001f600"):
        assert "unknown field" in message(post(server, {**body, name: 1}, path), 400)


# -- connections -----------------------------------------------------------------------------------


def test_wrong_keys(server: HttpServer) -> None:
    for secret in ("x", SECRET[:-1], SECRET + "x", "x" * 60_000):
        assert message(post(server, LONG, secret=secret), 401)
    # Before its body is looked at.
    with connect(server) as connection:
        connection.sendall(head(10 * MIB, secret="wrong"))
        assert connection.recv(100).startswith(b"HTTP/1.1 401")


def test_a_body_that_comes_drop_by_drop_is_given_up(server: HttpServer) -> None:
    with connect(server) as connection:
        connection.sendall(head(1000) + b'{"prompt": ')
        said = connection.recv(1000)
        assert said.startswith(b"HTTP/1.1 408")
        while part := connection.recv(1000):
            said += part
        assert b"within 0.5 s" in said, "and the connection is closed"


def test_a_client_that_leaves_in_its_body_is_forgotten(server: HttpServer) -> None:
    for _ in range(20):
        with connect(server) as connection:
            connection.sendall(head(1000) + b'{"prompt": ')


def test_what_is_no_http_is_refused(server: HttpServer) -> None:
    for garbage in (b"\x16\x03\x01\x02\x00", b"POST / HTTP/9.9\r\n\r\n", head(-5), b"\r\n" * 1000):
        with connect(server) as connection:
            connection.sendall(garbage)
            connection.shutdown(socket.SHUT_WR)
            connection.recv(1000)


@pytest.mark.parametrize("stream", [False, True])
def test_a_half_closed_connection_is_a_closed_one(server: HttpServer, stream: bool) -> None:
    body = json.dumps({**LONG, "stream": stream}).encode()
    with connect(server) as connection:
        connection.sendall(head(len(body)) + body)
        wait_for_sessions(server)
        connection.shutdown(socket.SHUT_WR)
        server.wait_until_free()


def test_a_reader_that_has_stopped_holds_nothing(server: HttpServer) -> None:
    body = json.dumps({**LONG, "stream": True, "logprobs": 20, "n": 4}).encode()
    with socket.socket() as connection:
        # The kernel would take a whole answer in.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", server.port))
        connection.sendall(head(len(body)) + body)
        wait_for_sessions(server)
        # Still connected, and not reading.
        server.wait_until_free()


def test_many_connections_that_say_nothing(server: HttpServer) -> None:
    silent = [connect(server) for _ in range(200)]
    assert post(server, {"prompt": "Hello", "max_tokens": 2}).status_code == 200
    for connection in silent:
        connection.close()


def test_a_deadline_ends_the_request(server: HttpServer) -> None:
    # A stream has to have begun, however busy the machine; all of it takes many times as long.
    for stream, timeout_s in ((False, 0.3), (True, 3)):
        reply = post(server, {**LONG, "n": 8, "timeout": timeout_s, "stream": stream})
        assert f"within {timeout_s} seconds" in reply.text
        assert "deadline_exceeded" in reply.text
        assert reply.status_code == (200 if stream else 408)
