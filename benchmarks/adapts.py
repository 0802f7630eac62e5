"""How soon the router adapts: to a slow member, to another task, and after its own death.

    python -m benchmarks.adapts --times 5 --json
    python -m benchmarks.adapts --only switch --times 3 --json
    python -m benchmarks.adapts --slow-target --only slow --json

Requests run one after the other through Ray; the router chooses. What is measured is told by
``benchmarks/slowed.py``, ``benchmarks/switched.py`` and ``benchmarks/restarted.py``. Where the
target is so fast that no drafter pays, none can be left: ``--slow-target`` runs it in fp32.
"""

import argparse
from collections.abc import Callable, Iterator
from functools import partial
from itertools import cycle
from pathlib import Path

from benchmarks import restarted, slowed, switched
from benchmarks.arms import comparison_arguments, run_arm
from benchmarks.known import own_state
from benchmarks.pools import with_slow_target, without_prefix_cache
from benchmarks.prompts import read_prompts
from benchmarks.report import add_json_argument, print_report
from specrouter_dist.actors.pool import RunningPool
from specrouter_dist.cli.backends import open_backend
from specrouter_dist.cli.options import BackendName
from specrouter_dist.cli.session import open_pool
from specrouter_dist.config import SamplingParams
from specrouter_dist.pools.loading import Pool
from specrouter_dist.serving.backend import PoolBackend
from specrouter_dist.serving.results import GenerateRequest, GenerateResult
from specrouter_dist.speculation.messages import TokenArray
from specrouter_dist.text.tokenizer import Tokenizer

WAYS = ("slow", "switch", "restart")
_PROMPTS_PER_TASK = 16

Prompts = dict[str, list[TokenArray]]


def prompts_by_task(pool: Pool, arguments: argparse.Namespace) -> Prompts:
    """Encoded."""
    tokenizer = Tokenizer.load(pool.directories[pool.config.target.name])
    prompts: Prompts = {}
    for prompt in read_prompts(arguments.data, arguments.split, _PROMPTS_PER_TASK):
        prompts.setdefault(prompt.task, []).append(tokenizer.encode(prompt.text))
    return prompts


def judged_requests(
    backend: PoolBackend, target: str, prompts: list[TokenArray], sampling: SamplingParams
) -> Iterator[Callable[[], restarted.Judged]]:
    """For ever; each result is compared with what the target writes alone."""
    alone, _ = run_arm(backend, prompts, (target,), sampling, 1)

    def request(seed: int) -> restarted.Judged:
        of_seed = sampling.model_copy(update={"seed": seed})
        (result,) = backend.generate([GenerateRequest(prompts[seed], of_seed)], concurrency=1)
        return result, result.token_ids == alone[seed].token_ids

    return cycle([partial(request, seed) for seed in range(len(prompts))])


def measure(
    backend: PoolBackend, pool: Pool, state: Path, arguments: argparse.Namespace
) -> dict[str, object]:
    """What was asked for, by its name."""
    running = backend.running
    assert isinstance(running, RunningPool)
    by_task = prompts_by_task(pool, arguments)
    mixed = [ids for group in zip(*by_task.values(), strict=False) for ids in group]
    sampling = SamplingParams(temperature=0.0, max_tokens=arguments.max_tokens)

    def auto() -> Iterator[GenerateResult]:
        for prompt in cycle(mixed):
            yield from backend.generate([GenerateRequest(prompt, sampling)], concurrency=1)

    def switches() -> switched.Switches:
        return switched.Switches(
            backend,
            pool,
            by_task,
            sampling,
            state,
            settle=arguments.settle,
            watched=arguments.watched,
            tells_tasks=arguments.tell_tasks,
        )

    times = arguments.times
    results: dict[str, object] = {}
    if arguments.only in (None, "slow"):
        results["slow"] = slowed.measure(running, auto(), times, arguments.slower)
    if arguments.only in (None, "switch"):
        results["switch"] = switched.measure(switches(), list(by_task), times)
    if arguments.only in (None, "restart"):
        requests = judged_requests(backend, pool.config.target.name, mixed, sampling)
        results["restart"] = restarted.measure(
            running, pool, state, requests, times, arguments.watched_s
        )
    return results


def main() -> None:
    """Parses the arguments, measures, prints."""
    parser = comparison_arguments(__doc__)
    parser.add_argument("--only", choices=WAYS, help="one of the three; else all")
    parser.add_argument("--slow-target", action="store_true", help="drafters pay on any machine")
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--slower", type=float, default=5.0, help="so many times: slow")
    parser.add_argument("--max-tokens", type=int, default=32)
    parser.add_argument("--settle", type=int, default=80, help="requests before a switch")
    parser.add_argument("--watched", type=int, default=6, help="requests after a switch")
    parser.add_argument("--tell-tasks", action="store_true", help="requests name their task")
    parser.add_argument("--watched-s", type=float, default=30.0, help="seconds after a restart")
    add_json_argument(parser)
    arguments = parser.parse_args()
    pool, report = open_pool(arguments.pool, dtype=None)
    pool = without_prefix_cache(with_slow_target(pool) if arguments.slow_target else pool)
    with own_state() as state, open_backend(pool, report, BackendName.RAY) as backend:
        results = measure(backend, pool, state, arguments)
    print_report("adapts", arguments, results)


if __name__ == "__main__":
    main()
