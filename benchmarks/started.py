"""How long ``specrouter serve`` takes until the target answers, a chain does, and all is measured.

    python -m benchmarks.started --pool tiny --times 5 --json

Each start is a cluster of its own, from the command on; one start before is not counted, which
brings the files into the page cache. The chain is that of all drafters of kind ``model`` and the
target, asked for by name. Then the pool is calibrated: its router has seen every pair.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
from typing import Any

from tqdm import tqdm

from benchmarks.clients.service import ROOT, wait_until, wait_until_calibrated
from benchmarks.ports import free_port
from benchmarks.report import add_json_argument, print_report
from specrouter_dist.cli.session import open_pool
from specrouter_dist.pools.loading import Pool, model_members

_WITHIN_S = 300.0
_ENDED_WITHIN_S = 60.0
_SERVER_ERRORS = 500


def chain_of_answer(url: str, model: str, speculative: object) -> list[str] | None:
    """The members that made an answer of some tokens; None: none came.

    Raises:
        HTTPError: the request is wrong, so that none ever would.
    """
    body = {"model": model, "prompt": "def add(a, b):", "max_tokens": 8, "speculative": speculative}
    request = urllib.request.Request(
        f"{url}/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=_WITHIN_S) as response:
            chain: list[str] = json.loads(response.read())["metrics"]["chain"]
            return chain
    except urllib.error.HTTPError as error:
        if error.code < _SERVER_ERRORS:
            raise
        return None
    except (urllib.error.URLError, ConnectionError):
        return None


def wait_for_chain(url: str, model: str, chain: list[str]) -> None:
    """
    Raises:
        SystemExit: it does not answer in time.
    """
    speculative: object = {"chain": chain} if len(chain) > 1 else False
    if wait_until(lambda: chain_of_answer(url, model, speculative) == chain, _WITHIN_S) is None:
        raise SystemExit(f"{url}: {' -> '.join(chain)} does not answer")


def start(pool: Pool, chain: list[str]) -> dict[str, float]:
    """One start, and its end; seconds from the command on."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "specrouter_dist.cli", "serve"]
    command += ["--pool", str(pool.file), "--port", str(port)]
    # As in a user's shell, where Python keeps what it has compiled.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    began_s = time.monotonic()
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, bufsize=0, cwd=ROOT, env=environment
    ) as process:
        try:
            wait_for_chain(url, pool.config.name, chain[-1:])
            target_s = time.monotonic() - began_s
            wait_for_chain(url, pool.config.name, chain)
            chain_s = time.monotonic() - began_s
            assert process.stdout is not None
            wait_until_calibrated(process.stdout)
            calibrated_s = time.monotonic() - began_s
            return {"target_s": target_s, "chain_s": chain_s, "calibrated_s": calibrated_s}
        finally:
            process.terminate()
            process.wait(_ENDED_WITHIN_S)


def main() -> None:
    """Parses the arguments, starts, prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pool", default="tiny")
    parser.add_argument("--times", type=int, default=5)
    add_json_argument(parser)
    arguments = parser.parse_args()
    if arguments.times < 1:
        parser.error(f"--times: at least 1, got {arguments.times}")
    pool, _ = open_pool(arguments.pool, dtype=None)
    chain = [member.name for member in model_members(pool)]
    starts = [start(pool, chain) for _ in tqdm(range(1 + arguments.times))][1:]
    results: dict[str, Any] = {"starts": starts, "chain": chain}
    for name in starts[0]:
        results[name] = statistics.median(one[name] for one in starts)
    print_report("started", arguments, results)


if __name__ == "__main__":
    main()
