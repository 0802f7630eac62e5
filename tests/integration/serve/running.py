"""The server that the tests of this folder share."""

import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass

READY_WITHIN_S = 240.0
"""The service itself promises 45 s on two free cores; tests may share theirs."""
FREE_WITHIN_S = 2.0
SETTINGS = {"body_timeout_s": 1.0}
"""Of the service: what a test can wait for."""
SLIM = {"name": "slim", "kind": "layer_skip", "of": "target", "mask": ["3.mlp", "4.mlp"]}
"""Beside the members of the embedded pool."""
PROMPT = "Once upon a time"

NumSessions = Callable[[], dict[str, int]]
"""Open sessions by member."""


@dataclass(frozen=True, slots=True)
class Server:
    process: subprocess.Popen[str]
    port: int
    grpc_port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


def wait_for(num_sessions: NumSessions, condition: Callable[[dict[str, int]], bool]) -> None:
    """Until the open sessions are as they should be."""
    end = time.monotonic() + 20.0
    while not condition(numbers := num_sessions()):
        assert time.monotonic() < end, numbers
        time.sleep(0.02)
