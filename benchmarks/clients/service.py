"""``specrouter serve`` in a process of its own, for clients in others."""

import os
import select
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import psutil
import yaml

from benchmarks.ports import free_port
from specrouter_dist.pools.loading import Pool, portable_members

ROOT = Path(__file__).parents[2]
_READY_WITHIN_S = 300.0
_ENDED_WITHIN_S = 60.0
_ASK_EVERY_S = 0.05


@dataclass(frozen=True, slots=True)
class Service:
    """One that runs and can be asked."""

    url: str
    process: psutil.Process
    """Ray's processes are its children."""

    def text(self, path: str) -> str:
        """What ``GET path`` answers."""
        with urllib.request.urlopen(self.url + path, timeout=30) as response:
            body: bytes = response.read()
        return body.decode()

    def memory_mib(self) -> dict[str, float]:
        """Memory that nobody shares (USS) of its processes, summed by name."""
        found: dict[str, float] = {}
        for process in [self.process, *self.process.children(recursive=True)]:
            try:
                name, uss_bytes = _name_of(process), process.memory_full_info().uss
            except psutil.Error:
                continue  # It has ended meanwhile.
            found[name] = found.get(name, 0.0) + uss_bytes / 2**20
        return found

    def num_requests(self) -> int:
        """Requests that the service itself still holds."""
        names = ("vllm:num_requests_running{", "vllm:num_requests_waiting{")
        lines = self.text("/metrics").splitlines()
        return int(sum(float(line.split()[-1]) for line in lines if line.startswith(names)))


@contextmanager
def serve(pool: str | Path) -> Iterator[Service]:
    """Starts the service on a free port; when the context ends, so does all that it started.

    Args:
        pool: a pool's name, or a pool file.

    Raises:
        SystemExit: it is not up in time.
    """
    port = free_port()
    command = [sys.executable, "-m", "specrouter_dist.cli", "serve"]
    command += ["--pool", str(pool), "--port", str(port)]
    # Unbuffered: what select says is then true of lines, too.
    with subprocess.Popen(command, stdout=subprocess.PIPE, bufsize=0, cwd=ROOT) as process:
        try:
            assert process.stdout is not None
            wait_until_calibrated(process.stdout)
            yield Service(f"http://127.0.0.1:{port}", psutil.Process(process.pid))
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(_ENDED_WITHIN_S)


def wait_until_calibrated(output: IO[bytes]) -> None:
    """The second line of ``specrouter serve`` says so.

    Args:
        output: unbuffered.

    Raises:
        SystemExit: that takes too long, or it says something else, or has ended.
    """
    for wanted in (b"serving", b"calibrated"):
        ready, _, _ = select.select([output], [], [], _READY_WITHIN_S)
        line = output.readline() if ready else b""
        if not line.startswith(wanted):
            raise SystemExit(f"the service does not say {wanted.decode()!r}, but {line.decode()!r}")


def write_pool(
    pool: Pool, file: Path, *, members: Sequence[str] | None = None, prefix_cache: bool = True
) -> Path:
    """The pool as a file that another process can serve.

    Args:
        pool: with all directories resolved.
        file: where it goes.
        members: these alone; None: all.
        prefix_cache: False turns it off.
    """
    content = pool.config.model_dump(mode="json", exclude_unset=True)
    changed = {} if prefix_cache else {"prefix_cache": False}
    content["members"] = [
        member | (changed if member["kind"] == "model" else {})
        for member in portable_members(pool)
        if members is None or member["name"] in members
    ]
    file.write_text(yaml.safe_dump(content), encoding="utf-8")
    return file


def wait_until(condition: Callable[[], bool], timeout_s: float) -> float | None:
    """Seconds until it came true; None: it did not."""
    started = time.monotonic()
    while not condition():
        if time.monotonic() - started > timeout_s:
            return None
        time.sleep(_ASK_EVERY_S)
    return time.monotonic() - started


def run_client(command: Sequence[str], *, offline: bool = False) -> None:
    """Runs a client in its environment. What it prints goes to standard error, beside the report.

    Args:
        command: begins with the client.
        offline: tells Hugging Face's libraries that there is no hub.

    Raises:
        SystemExit: it failed, or is not installed.
    """
    if not Path(command[0]).exists():
        raise SystemExit(f"{command[0]} is missing; run: sh benchmarks/clients/setup.sh")
    changed = {"TOKENIZERS_PARALLELISM": "false"}
    if offline:
        changed |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    run = subprocess.run(command, env={**os.environ, **changed}, cwd=ROOT, check=False, stdout=2)
    if run.returncode:
        raise SystemExit(f"{command[0]} has failed with {run.returncode}")


def _name_of(process: psutil.Process) -> str:
    """Ray names its workers after what they are, and behind a point what they do just now."""
    command = process.cmdline()
    title = command[0] if command else process.name()
    return title.split(".")[0] if title.startswith("ray::") else process.name()
