"""Wrong, slow and gone clients of ``specrouter serve``: it answers them, and the next one.

All of it at the routes is in tests/integration/test_http_hostile.py.
"""

import json
import socket
import time
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

from tests.integration.serve.running import (
    FREE_WITHIN_S,
    PROMPT,
    SETTINGS,
    NumSessions,
    Server,
    wait_for,
)

pytestmark = [pytest.mark.ray, pytest.mark.timeout(400)]

PATH = "/v1/completions"
LONG: dict[str, Any] = {
    "prompt": PROMPT,
    "max_tokens": 1500,
    "ignore_eos": True,
    "speculative": {"chain": ["small", "medium", "target"]},
}
MIB = 1024 * 1024


@pytest.fixture(autouse=True)
def server_is_well_afterwards(
    server: Server, client: openai.OpenAI, num_sessions: NumSessions
) -> Iterator[None]:
    yield
    wait_for(num_sessions, lambda numbers: not any(numbers.values()))
    answer = client.completions.create(model="tiny", prompt=PROMPT, max_tokens=2)
    assert answer.usage is not None and answer.usage.completion_tokens == 2


def head(length: int) -> bytes:
    lines = (f"POST {PATH} HTTP/1.1", "Host: test", f"Content-Length: {length}", "", "")
    return "\r\n".join(lines).encode()


def connect(server: Server) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=30)


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (json.dumps({"prompt": "a", "stop": ["s" * (10 * MIB)]}).encode(), 400, "stop[0]: string"),
        (b" " * (17 * MIB), 413, "longer than 16777216 bytes"),
        (b'{"prompt": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", 400, "no usable JSON"),
        (b'{"logit_bias": ' + b'{"a":' * 900 + b"1" + b"}" * 901, 400, ""),
        (b'{"prompt": "\xc3\x28"}', 400, "not UTF-8"),
        (b'{"prompt": "\\ud800"}', 400, ""),
        (b'{"prompt": "a", "max_token": 1}', 400, "unknown field"),
    ],
    ids=["10 MB", "17 MB", "deep list", "deep object", "UTF-8", "surrogate", "field"],
)
def test_what_is_wrong_is_refused_by_name(
    server: Server, body: bytes, status: int, words: str
) -> None:
    reply = httpx.post(server.url + PATH, content=body, timeout=60)
    assert reply.status_code == status, reply.text
    said = reply.json()["error"]["message"]
    assert words in said and len(said) < 500


def test_a_body_that_comes_drop_by_drop_is_given_up(server: Server) -> None:
    with connect(server) as connection:
        connection.sendall(head(1000) + b'{"prompt": ')
        said = b""
        while part := connection.recv(1000):
            said += part
    assert said.startswith(b"HTTP/1.1 408")
    assert f"within {SETTINGS['body_timeout_s']:g} s".encode() in said


def test_a_client_that_leaves_in_its_body_is_forgotten(server: Server) -> None:
    for _ in range(20):
        with connect(server) as connection:
            connection.sendall(head(1000) + b'{"prompt": ')


@pytest.mark.parametrize("stream", [False, True])
def test_a_half_closed_connection_is_a_closed_one(
    server: Server, num_sessions: NumSessions, stream: bool
) -> None:
    body = json.dumps({**LONG, "stream": stream}).encode()
    with connect(server) as connection:
        connection.sendall(head(len(body)) + body)
        wait_for(num_sessions, lambda numbers: all(numbers.values()))
        connection.shutdown(socket.SHUT_WR)
        closed = time.monotonic()
        wait_for(num_sessions, lambda numbers: not any(numbers.values()))
        assert time.monotonic() - closed < FREE_WITHIN_S


def test_a_reader_that_has_stopped_holds_nothing(server: Server, num_sessions: NumSessions) -> None:
    body = json.dumps({**LONG, "max_tokens": 400, "stream": True, "logprobs": 20}).encode()
    with socket.socket() as connection:
        # The kernel would take a whole answer in.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", server.port))
        connection.sendall(head(len(body)) + body)
        wait_for(num_sessions, lambda numbers: all(numbers.values()))
        # Still connected, and not reading.
        wait_for(num_sessions, lambda numbers: not any(numbers.values()))


def test_what_is_no_http_is_refused(server: Server) -> None:
    for garbage in (b"\x16\x03\x01\x02\x00", b"POST / HTTP/9.9\r\n\r\n", head(-5)):
        with connect(server) as connection:
            connection.sendall(garbage)
            connection.shutdown(socket.SHUT_WR)
            connection.recv(1000)


def test_a_passed_deadline_is_not_tried_again(server: Server) -> None:
    def num_aborted() -> float:
        lines = httpx.get(f"{server.url}/metrics", timeout=30).text.splitlines()
        name = "vllm:request_success_total{"
        ends = [line for line in lines if line.startswith(name) and '"abort"' in line]
        return sum(float(line.split()[-1]) for line in ends)

    before = num_aborted()
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=2) as client:
        body = {**LONG, "timeout": 0.5}
        with pytest.raises(openai.APIStatusError) as caught:
            client.post(PATH.removeprefix("/v1"), body=body, cast_to=openai.types.Completion)
    assert (caught.value.status_code, caught.value.code) == (408, "deadline_exceeded")
    assert num_aborted() - before == 1
