"""What locust's users do: ask in every way there is, and often leave before the answer is whole.

Runs in locust's environment; nothing of this repository is imported. ``--outcomes FILE`` is where
it leaves how many requests ended how.
"""

import collections
import json
import random
import typing
from pathlib import Path

import requests
from locust import HttpUser, between, events, task

_PROMPTS = (
    "def add(a, b):\n",
    "Translate to German: Save changes\nGerman:",
    "Question: Tom has 3 apples and buys 4 more. How many apples does he have?\nAnswer:",
    "class Node:\n    def __init__(self, value):\n",
    "Once upon a time",
)
_MOST_TOKENS = 96
_LEAVE_WITHIN_S = 1.0
_LEAVE_WITHIN_EVENTS = 12
_LONGEST_S = 120.0
"""A request that takes longer is an error."""

outcomes: collections.Counter[str] = collections.Counter()
"""``200``, ``429``, ..., ``left``, or what was wrong."""


@events.init_command_line_parser.add_listener
def add_arguments(parser: typing.Any) -> None:
    """Where the outcomes go."""
    parser.add_argument("--outcomes", type=str, required=True, help="file to write counts to")


@events.quitting.add_listener
def write_outcomes(environment: typing.Any, **_: typing.Any) -> None:
    """When all users have stopped."""
    Path(environment.parsed_options.outcomes).write_text(json.dumps(outcomes), encoding="utf-8")


class Client(HttpUser):
    """One user, who waits a little between requests."""

    wait_time = between(0.0, 0.2)

    @task(4)
    def reads_a_whole_answer(self) -> None:
        """Without a stream."""
        self._ask("/v1/completions", self._completion())

    @task(1)
    def talks(self) -> None:
        """The other endpoint."""
        messages = [{"role": "user", "content": random.choice(_PROMPTS)}]
        self._ask("/v1/chat/completions", {"messages": messages, "max_tokens": _MOST_TOKENS})

    @task(1)
    def scores_a_prompt(self) -> None:
        """Log-probabilities alone."""
        body = {**self._completion(), "echo": True, "max_tokens": 0, "logprobs": 1}
        self._ask("/v1/completions", body)

    @task(4)
    def reads_a_stream(self) -> None:
        """To its end."""
        self._read_stream(None)

    @task(3)
    def leaves_a_stream(self) -> None:
        """In the middle."""
        self._read_stream(random.randint(1, _LEAVE_WITHIN_EVENTS))

    @task(3)
    def leaves_early(self) -> None:
        """Most often before there is an answer."""
        body = {**self._completion(), "n": random.randint(1, 3)}
        self._ask("/v1/completions", body, patience_s=random.uniform(0.01, _LEAVE_WITHIN_S))

    def _completion(self) -> dict[str, typing.Any]:
        return {
            "prompt": random.choice(_PROMPTS),
            "max_tokens": random.randint(1, _MOST_TOKENS),
            "temperature": random.choice((0.0, 0.8)),
            "ignore_eos": True,
        }

    def _ask(self, path: str, body: dict[str, typing.Any], patience_s: float | None = None) -> None:
        timeout_s = patience_s or _LONGEST_S
        with self.client.post(
            path, json=body, timeout=(_LONGEST_S, timeout_s), catch_response=True
        ) as response:
            if patience_s and isinstance(response.error, requests.exceptions.Timeout):
                self._end(response, "left")
            else:
                self._end(response, _status(response))

    def _read_stream(self, num_events: int | None) -> None:
        """So many events; None: all, the last of which has to be there."""
        body = {**self._completion(), "stream": True, "n": random.randint(1, 2)}
        with self.client.post(
            "/v1/completions", json=body, stream=True, timeout=_LONGEST_S, catch_response=True
        ) as response:
            if response.status_code != 200:
                self._end(response, _status(response))
                return
            lines = [line for line in self._lines(response, num_events) if line]
            problem = next((line for line in lines if line.startswith(b'data: {"error"')), None)
            if problem:
                self._end(response, problem.decode())
            elif lines and lines[-1] == b"data: [DONE]":
                self._end(response, "200")
            else:
                self._end(response, "left" if num_events else "a stream without an end")

    @staticmethod
    def _lines(response: typing.Any, num_events: int | None) -> typing.Iterator[bytes]:
        num_read = 0
        for line in response.iter_lines():
            yield line
            num_read += bool(line)
            if num_read == num_events:
                response.close()
                return

    @staticmethod
    def _end(response: typing.Any, outcome: str) -> None:
        outcomes[outcome] += 1
        if outcome in ("200", "429", "left"):
            response.success()
        else:
            response.failure(outcome)


def _status(response: typing.Any) -> str:
    """The status, or the error of a connection."""
    return str(response.status_code) if response.status_code else repr(response.error)
