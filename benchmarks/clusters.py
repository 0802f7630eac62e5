"""Ray clusters of several processes on this machine, started with ``ray start`` and ended."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psutil

CURRENT_CLUSTER = Path("/tmp/ray/ray_current_cluster")
"""Where Ray notes which cluster it has started on this machine."""
_UP_WITHIN_S = 120.0
_END_WITHIN_S = 30.0


def executable(name: str) -> str:
    """The command of this interpreter's environment."""
    return str(Path(sys.executable).parent / name)


@contextmanager
def ray_head(*options: str, environment: Mapping[str, str] | None = None) -> Iterator[str]:
    """The address of a head that was started with ``options``; it ends with all its nodes.

    Raises:
        RuntimeError: a cluster runs on this machine already, or the head does not start.
    """
    if CURRENT_CLUSTER.exists():
        raise RuntimeError(f"a cluster runs on this machine already: {CURRENT_CLUSTER}")
    command = [executable("ray"), "start", "--head", "--block", *options]
    # Jobs and nodes of the cluster find the commands of this environment.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    env = {**os.environ, **(environment or {}), "PATH": path}
    # Only this machine reaches it. By itself Ray wants a token wherever an earlier one has left it.
    env.setdefault("RAY_AUTH_MODE", "disabled")
    head = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield _address(head)
    finally:
        # Not `ray stop`, which ends every cluster of the user.
        started = psutil.Process(head.pid).children(recursive=True)
        for process in started:
            process.kill()
        head.kill()
        head.wait(_END_WITHIN_S)
        psutil.wait_procs(started, timeout=_END_WITHIN_S)
        CURRENT_CLUSTER.unlink(missing_ok=True)


def _address(head: subprocess.Popen[bytes]) -> str:
    end = time.monotonic() + _UP_WITHIN_S
    while time.monotonic() < end and head.poll() is None:
        if CURRENT_CLUSTER.exists() and (address := CURRENT_CLUSTER.read_text().strip()):
            return address
        time.sleep(0.1)
    raise RuntimeError(f"the head is not up; its exit code: {head.poll()}")
