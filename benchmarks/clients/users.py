"""Many users of the service, who often leave early: errors, memory, and whether all is freed.

    sh benchmarks/clients/setup.sh .clients
    python -m benchmarks.clients.users --users 32 --seconds 300 --json

locust runs in its own environment (locustfile.py); the service is started here. Memory (USS) of
every process is read while the users are there, once they have been for a while. When they are
gone, all at once and most in mid-request, no session may be left at any level within two seconds.
"""

import argparse
import json
import statistics
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.clients.levels import Levels, levels_of
from benchmarks.clients.service import Service, run_client, serve, wait_until
from benchmarks.report import add_json_argument, print_report
from specrouter_dist.cli.session import open_pool

FREE_WITHIN_S = 2.0
_WAIT_S = 30.0
"""What is not free by then is not waited for."""
_SAMPLE_EVERY_S = 2.0
_WARM_SHARE = 0.25
"""Of the time, in which caches fill; memory is compared after it."""
_EDGE = 3
"""Samples whose median is the memory at the start, and at the end."""
_MOST_GROWTH = 0.001
"""Of all memory, per minute in the second half: more is no flat line, but a leak."""
_ALLOWED = ("200", "429", "left")


class MemorySamples:
    """Reads the memory of the service's processes until it is stopped."""

    def __init__(self, service: Service) -> None:
        self.samples: list[tuple[float, dict[str, float]]] = []
        """Time in seconds, and MiB by process."""
        self._service = service
        self._started = time.monotonic()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._sample, name="memory")
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread."""
        self._stopping.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._stopping.wait(_SAMPLE_EVERY_S):
            elapsed_s = time.monotonic() - self._started
            self.samples.append((elapsed_s, self._service.memory_mib()))


def compare_memory(
    samples: Sequence[tuple[float, Mapping[str, float]]], duration_s: float
) -> dict[str, dict[str, float]]:
    """By process, and of all together: MiB at the start (after the warm-up) and at the end, and
    how much is added per minute of the second half (least squares)."""
    warm = [(at_s, memory) for at_s, memory in samples if at_s >= _WARM_SHARE * duration_s]
    if len(warm) < 2 * _EDGE:
        return {}
    minutes = [at_s / 60 for at_s, _ in warm]
    rows = [{**memory, "all": sum(memory.values())} for _, memory in warm]
    names = [name for name in rows[-1] if all(name in row for row in rows)]
    late = sum(at_s < duration_s / 2 for at_s, _ in warm)
    found = {}
    for name in names:
        used = [row[name] for row in rows]
        found[name] = {
            "start_mib": statistics.median(used[:_EDGE]),
            "end_mib": statistics.median(used[-_EDGE:]),
            "most_mib": max(used),
            "mib_per_minute": statistics.linear_regression(minutes[late:], used[late:]).slope,
        }
    return found


def is_flat(memory: Mapping[str, Mapping[str, float]]) -> bool:
    """Whether memory stays as it is, once caches are full; not shown by too few samples."""
    if not memory:
        return False
    everything = memory["all"]
    return everything["mib_per_minute"] <= _MOST_GROWTH * everything["end_mib"]


def use(service: Service, levels: Levels, arguments: argparse.Namespace) -> dict[str, object]:
    """The users come, and leave."""
    with tempfile.TemporaryDirectory() as directory:
        outcomes_file = Path(directory) / "outcomes.json"
        memory = MemorySamples(service)
        try:
            run_client(
                [
                    *(str(arguments.clients / "locust/bin/locust"), "--headless", "--only-summary"),
                    *("--locustfile", "benchmarks/clients/locustfile.py", "--host", service.url),
                    *("--users", str(arguments.users), "--spawn-rate", str(arguments.users)),
                    *("--run-time", f"{arguments.seconds}s", "--exit-code-on-error", "0"),
                    *("--outcomes", str(outcomes_file)),
                ],
            )
        finally:
            memory.stop()
        free_s = wait_until(lambda: is_free(service, levels), _WAIT_S)
        outcomes = json.loads(outcomes_file.read_text(encoding="utf-8"))
    used = compare_memory(memory.samples, arguments.seconds)
    return {
        "outcomes": outcomes,
        "num_errors": sum(n for outcome, n in outcomes.items() if outcome not in _ALLOWED),
        "free_after_s": free_s,
        "num_sessions": levels.num_sessions(),
        "num_requests": service.num_requests(),
        "memory": used,
        "is_flat": is_flat(used),
    }


def is_free(service: Service, levels: Levels) -> bool:
    """Whether nobody holds anything for a request."""
    return not any(levels.num_sessions().values()) and not service.num_requests()


def main() -> None:
    """Parses the arguments, runs, prints; exit code 1: errors, a leak, or something was left."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pool", default="tiny")
    parser.add_argument("--clients", type=Path, default=Path(".clients"), help="environments")
    parser.add_argument("--users", type=int, default=32)
    parser.add_argument("--seconds", type=int, default=300)
    add_json_argument(parser)
    arguments = parser.parse_args()
    arguments.clients = arguments.clients.absolute()
    pool, _ = open_pool(arguments.pool, dtype=None)
    with serve(arguments.pool) as service, levels_of(pool) as levels:
        results = use(service, levels, arguments)
    print_report("clients.users", arguments, results)
    free_s = results["free_after_s"]
    is_late = not isinstance(free_s, float) or free_s > FREE_WITHIN_S
    if results["num_errors"] or is_late or not results["is_flat"]:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
