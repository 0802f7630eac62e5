"""The router's share of the CPU time of a pool that works.

    python -m benchmarks.share --requests 120 --json

Dev prompts, one at a time through Ray, by the router's choice. CPU time of the processes of all
actors, and of this one, which is the client; the router's share of the pool is that of its process
among the actors, the planner's that of its decisions. ``idle``: over some seconds in which nobody
asks for anything; an actor of Ray that does nothing takes about a hundredth of a core, which
``above_idle`` leaves out.
"""

import argparse
import time
from collections import Counter
from collections.abc import Mapping
from itertools import cycle, islice
from typing import Any

import psutil

from benchmarks.arms import comparison_arguments, run_arm
from benchmarks.pools import without_prefix_cache
from benchmarks.prompts import read_prompts
from benchmarks.report import add_json_argument, print_report
from specrouter_dist.actors.pool import RunningPool
from specrouter_dist.cli.backends import open_backend
from specrouter_dist.cli.options import BackendName
from specrouter_dist.cli.session import open_pool
from specrouter_dist.config import SamplingParams
from specrouter_dist.serving.backend import PoolBackend
from specrouter_dist.text.tokenizer import Tokenizer

_PROMPTS_PER_TASK = 16
_IDLE_S = 10.0
_SETTLE_S = 10.0
"""In which the members read the last texts."""


def pool_cpu_s(cpu_s: Mapping[str, float]) -> float:
    """Of all actors."""
    return sum(spent_s for name, spent_s in cpu_s.items() if name != "client")


class CpuClock:
    """CPU seconds of processes by name, and of the wall, since it was made."""

    def __init__(self, pids: Mapping[str, int]) -> None:
        self._processes = {name: psutil.Process(pid) for name, pid in pids.items()}
        self._began_s = time.perf_counter()
        self._before_s = self._cpu_s()

    def _cpu_s(self) -> dict[str, float]:
        times = {name: process.cpu_times() for name, process in self._processes.items()}
        return {name: spent.user + spent.system for name, spent in times.items()}

    def read(self) -> dict[str, Any]:
        """Seconds, and the router's share of what all actors spent."""
        spent_s = {name: now - self._before_s[name] for name, now in self._cpu_s().items()}
        wall_s = time.perf_counter() - self._began_s
        pool_s = pool_cpu_s(spent_s)
        return {
            "wall_s": wall_s,
            "cpu_s": spent_s,
            "router_share_of_pool": spent_s["router"] / pool_s if pool_s else None,
            "router_share_of_a_core": spent_s["router"] / wall_s,
        }


def above_idle(working: Mapping[str, Any], idle: Mapping[str, Any]) -> float:
    """The router's share of the pool without what its process costs in any case."""
    cpu_s, rest_s = working["cpu_s"], idle["cpu_s"]["router"] / idle["wall_s"] * working["wall_s"]
    return float((cpu_s["router"] - rest_s) / pool_cpu_s(cpu_s))


def measure(backend: PoolBackend, arguments: argparse.Namespace) -> dict[str, object]:
    """While it works, and while it rests."""
    running = backend.running
    assert isinstance(running, RunningPool)
    pool, _ = open_pool(arguments.pool, dtype=None)
    tokenizer = Tokenizer.load(pool.directories[pool.config.target.name])
    texts = read_prompts(arguments.data, arguments.split, _PROMPTS_PER_TASK)
    prompts = [tokenizer.encode(prompt.text) for prompt in texts]
    sampling = SamplingParams(temperature=arguments.temperature, max_tokens=arguments.max_tokens)
    pids = {**running.pids(), "client": psutil.Process().pid}
    # The router has much to decide about right after the calibration.
    run_arm(backend, prompts[:4], None, sampling, 1)
    before_s, clock = running.explain()["cpu_s"], CpuClock(pids)
    many = list(islice(cycle(prompts), arguments.requests))
    results, tokens_per_second = run_arm(backend, many, None, sampling, arguments.concurrency)
    working, after_s = clock.read(), running.explain()["cpu_s"]
    spent_s = {on: after_s[on] - before_s.get(on, 0.0) for on in after_s}
    time.sleep(_SETTLE_S)
    clock = CpuClock(pids)
    time.sleep(arguments.idle_s)
    idle = clock.read()
    return {
        "working": working,
        "idle": idle,
        "router_share_of_pool_above_idle": above_idle(working, idle),
        "planner_share_of_pool": spent_s["deciding"] / pool_cpu_s(working["cpu_s"]),
        "router_spent_s": spent_s,
        "chains": Counter(" -> ".join(result.chain) for result in results),
        "num_tokens": sum(len(result.token_ids) for result in results),
        "tokens_per_second": tokens_per_second,
    }


def main() -> None:
    """Parses the arguments, measures, prints."""
    parser = comparison_arguments(__doc__)
    parser.add_argument("--requests", type=int, default=120)
    parser.add_argument("--concurrency", type=int, default=1)
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--idle-s", type=float, default=_IDLE_S)
    add_json_argument(parser)
    arguments = parser.parse_args()
    pool, report = open_pool(arguments.pool, dtype=None)
    with open_backend(without_prefix_cache(pool), report, BackendName.RAY) as backend:
        results = measure(backend, arguments)
    print_report("share", arguments, results)


if __name__ == "__main__":
    main()
