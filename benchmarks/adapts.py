"""How soon a chain is left when one of its members slows down, and taken again when it recovers.

    python -m benchmarks.adapts --times 5 --json

Requests run one after the other through Ray; the router chooses. Then the process of the drafter
that most of them use gets a fifth of its time (it is stopped and continued every few
milliseconds), and later all of it again. Left: from the slowdown to the first of five requests in
a row that end on a chain without the member; taken again likewise, from the recovery.
"""

import argparse
import os
import signal
import statistics
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import cycle

import ray

from benchmarks.arms import comparison_arguments
from benchmarks.prompts import read_prompts
from benchmarks.report import add_json_argument, print_report
from specrouter_dist.cli.backends import open_backend
from specrouter_dist.cli.options import BackendName
from specrouter_dist.cli.session import open_pool
from specrouter_dist.config import SamplingParams
from specrouter_dist.serving.backend import PoolBackend
from specrouter_dist.serving.results import GenerateRequest
from specrouter_dist.text.tokenizer import Tokenizer

_RUN_S, _STOP_S = 0.002, 0.008
"""A fifth of the time: five times slower."""
_IN_A_ROW = 5
_PATIENCE_S = 60.0
_SETTLE_REQUESTS = 40


@contextmanager
def slowed(pid: int) -> Iterator[None]:
    """The process gets a fifth of its time."""
    ended = threading.Event()

    def pulse() -> None:
        while not ended.is_set():
            os.kill(pid, signal.SIGSTOP)
            time.sleep(_STOP_S)
            os.kill(pid, signal.SIGCONT)
            time.sleep(_RUN_S)

    thread = threading.Thread(target=pulse)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        os.kill(pid, signal.SIGCONT)


def chains_of(backend: PoolBackend, arguments: argparse.Namespace) -> Iterator[tuple[str, ...]]:
    """The chain that each request ended on, for ever."""
    pool, _ = open_pool(arguments.pool, dtype=None)
    tokenizer = Tokenizer.load(pool.directories[pool.config.target.name])
    prompts = read_prompts(arguments.data, arguments.split, per_task=16)
    sampling = SamplingParams(temperature=0.0, max_tokens=arguments.max_tokens)
    for prompt in cycle(prompts):
        request = GenerateRequest(tokenizer.encode(prompt.text), sampling)
        (result,) = backend.generate([request], concurrency=1)
        yield result.chain


def seconds_until(chains: Iterator[tuple[str, ...]], member: str, *, used: bool) -> float | None:
    """Until requests in a row use the member, or do not; None: they never do."""
    began, recent = time.monotonic(), deque[float](maxlen=_IN_A_ROW)
    for chain in chains:
        now = time.monotonic()
        if (member in chain) == used:
            recent.append(now)
        else:
            recent.clear()
        if len(recent) == _IN_A_ROW:
            return recent[0] - began
        if now - began > _PATIENCE_S:
            return None
    raise AssertionError("requests never end")


def measure(backend: PoolBackend, arguments: argparse.Namespace) -> list[dict[str, object]]:
    """One row per slowdown."""
    chains = chains_of(backend, arguments)
    workers = backend.running.workers  # type: ignore[attr-defined]
    rows: list[dict[str, object]] = []
    for _ in range(arguments.times):
        used = Counter(next(chains) for _ in range(_SETTLE_REQUESTS))
        usual = used.most_common(1)[0][0]
        member = next((m for m in reversed(usual[:-1]) if m in workers), None)
        if member is None:
            raise SystemExit(f"the router uses no model as a drafter: {dict(used)}")
        with slowed(ray.get(workers[member].pid.remote())):
            left_s = seconds_until(chains, member, used=False)
        again_s = seconds_until(chains, member, used=True)
        rows.append({"member": member, "left_after_s": left_s, "used_again_after_s": again_s})
    return rows


def main() -> None:
    """Parses the arguments, measures, prints."""
    parser = comparison_arguments(__doc__)
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--max-tokens", type=int, default=32)
    add_json_argument(parser)
    arguments = parser.parse_args()
    pool, report = open_pool(arguments.pool, dtype=None)
    with open_backend(pool, report, BackendName.RAY) as backend:
        rows = measure(backend, arguments)
    medians = {
        key: statistics.median(float(row[key] or _PATIENCE_S) for row in rows)  # type: ignore[arg-type]
        for key in ("left_after_s", "used_again_after_s")
    }
    print_report("adapts", arguments, {"medians": medians, "rows": rows})


if __name__ == "__main__":
    main()
