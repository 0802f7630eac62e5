"""Ray clusters of several processes on this machine, as tests start and end them."""

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
_UP_WITHIN_S = 90.0


@contextmanager
def ray_head(*options: str, environment: Mapping[str, str] | None = None) -> Iterator[str]:
    """The address of a head that was started with ``options``; it ends with all its nodes."""
    command = [str(Path(sys.executable).parent / "ray"), "start", "--head", "--block", *options]
    bin_first = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    env = {**os.environ, **(environment or {}), "PATH": bin_first}
    assert not CURRENT_CLUSTER.exists(), "another cluster runs on this machine"
    head = psutil.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield _address(head)
    finally:
        # Not `ray stop`, which ends every cluster of the user.
        processes = [head, *head.children(recursive=True)]
        for process in processes:
            process.kill()
        psutil.wait_procs(processes, timeout=30)
        head.wait()
        CURRENT_CLUSTER.unlink(missing_ok=True)


def _address(head: psutil.Popen) -> str:
    end = time.monotonic() + _UP_WITHIN_S
    while time.monotonic() < end:
        assert head.poll() is None, f"ray start has ended with {head.returncode}"
        if CURRENT_CLUSTER.exists() and (address := CURRENT_CLUSTER.read_text().strip()):
            return address
        time.sleep(0.1)
    raise TimeoutError("the head is not up")
