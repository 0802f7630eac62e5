"""Time of a rollback: a Truth that takes back the end of a middle stage's stream.

    python -m benchmarks.rollback --json

Thread CPU time of one ``Stage.on_truth`` that cuts the last 8 tokens and follows with one, with an
upstream attached (so its queue and acknowledgements roll back too). Lengths are interleaved, and
the state is put back outside the measured part. The time includes one reading of the clock, which
is given beside it. The other row is a lookup member's answer to a Truth of 5 tokens (2 of them
instead of others) after a text of the same length with natural word frequencies.

Exit code 1 if a bound is broken: p50 of a rollback, its growth from 64 to 2,048 tokens, p50 of a
lookup at 2,048.
"""

import argparse
import json
import random
import statistics
import sys
import time
from array import array
from collections.abc import Callable
from dataclasses import asdict, dataclass

from benchmarks.environment import environment
from specrouter_dist.config import EdgeKnobs
from specrouter_dist.speculation.ending import StopIds
from specrouter_dist.speculation.lookup import LookupStage
from specrouter_dist.speculation.messages import EdgeId, Truth
from specrouter_dist.speculation.stage import Stage

LENGTHS = (64, 256, 2048)
NUM_TAKEN_BACK = 8
BOUND_US = 10.0
BOUND_GROWTH = 1.2
BOUND_LOOKUP_US = 20.0
_VOCAB_SIZE = 32_000
_BATCH = 50
_DOWN = EdgeId(1, 1, 1)
_UP = EdgeId(1, 1, 2)


@dataclass(frozen=True, slots=True)
class Result:
    """Thread time of one operation, in microseconds."""

    operation: str
    length: int
    num_runs: int
    p50_us: float
    p95_us: float
    min_us: float


def rollbacks(length: int) -> Callable[[], int]:
    """What makes one rollback of a stage of ``length`` tokens; returns nanoseconds."""
    stream = array("I", [i % 997 for i in range(length)])
    settled = length - NUM_TAKEN_BACK
    end = 2 * length
    stage = Stage(stream[:settled], prompt_tokens=1, end=end, ending=StopIds([]))
    stage.attach_upstream(_UP, EdgeKnobs())
    stage.attach_downstream(Truth(_DOWN, 1, 0, stream[:settled], end), end)
    version = 1

    def roll_back() -> int:
        nonlocal version
        version += 1
        stage.tokens.truncate(settled)
        stage.tokens.append(stream[settled:])
        stage.kv_len = length - 1
        truth = Truth(_DOWN, version, settled, array("I", [998]), end)
        start_ns = time.thread_time_ns()
        stage.on_truth(truth)
        stop_ns = time.thread_time_ns()
        assert (stage.kv_len, len(stage.tokens)) == (settled, settled + 1)
        return stop_ns - start_ns

    return roll_back


def lookups(length: int) -> Callable[[], int]:
    """What makes one answer of a lookup member after ``length`` tokens; returns nanoseconds."""
    generator = random.Random(0)
    words = range(_VOCAB_SIZE)
    frequencies = [1 / (rank + 3) for rank in words]
    text = array("I", generator.choices(words, frequencies, k=length))
    changes = array("I", generator.choices(words, frequencies, k=1000))
    end = 2 * length
    stage = LookupStage(
        text[:length], prompt_tokens=1, end=end, min_match_tokens=2, max_match_tokens=8
    )
    stage.attach_downstream(Truth(_DOWN, 1, 0, text[:length], end), end)
    version = 1

    def look_up() -> int:
        nonlocal version
        version += 1
        changed = changes[version % 500 : version % 500 + 5]
        truth = Truth(_DOWN, version, length - 2, changed, length + 11)
        start_ns = time.thread_time_ns()
        stage.on_truth(truth)
        stage.flush()
        return time.thread_time_ns() - start_ns

    return look_up


def measure(operations: dict[tuple[str, int], Callable[[], int]], num_runs: int) -> list[Result]:
    """Interleaved batches of all operations."""
    times_ns: dict[tuple[str, int], list[int]] = {key: [] for key in operations}
    for operation in operations.values():
        for _ in range(_BATCH):
            operation()
    for _ in range(num_runs // _BATCH):
        for key, operation in operations.items():
            times_ns[key] += [operation() for _ in range(_BATCH)]
    return [summary(*key, values) for key, values in times_ns.items()]


def summary(operation: str, length: int, values_ns: list[int]) -> Result:
    """Percentiles of one operation at one length."""
    cuts = statistics.quantiles(values_ns, n=100, method="inclusive")
    p50, p95, least = (round(ns / 1e3, 2) for ns in (cuts[49], cuts[94], min(values_ns)))
    return Result(operation, length, len(values_ns), p50, p95, least)


def clock_us() -> float:
    """Median time of reading the clock twice."""
    values = []
    for _ in range(2000):
        start_ns = time.thread_time_ns()
        values.append(time.thread_time_ns() - start_ns)
    return statistics.median(values) / 1e3


def main() -> int:
    """Prints a table or JSON; exit code 1 if a bound is broken."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    parser.add_argument("--runs", type=int, default=5000, help="runs per operation and length")
    options = parser.parse_args()
    operations = {("rollback", length): rollbacks(length) for length in LENGTHS}
    operations |= {("lookup", length): lookups(length) for length in LENGTHS}
    results = measure(operations, options.runs)
    p50_us = {(r.operation, r.length): r.p50_us for r in results}
    growth = round(p50_us["rollback", LENGTHS[-1]] / p50_us["rollback", LENGTHS[0]], 3)
    holds = (
        max(p50_us["rollback", length] for length in LENGTHS) <= BOUND_US
        and growth <= BOUND_GROWTH
        and p50_us["lookup", LENGTHS[-1]] <= BOUND_LOOKUP_US
    )
    about = environment() | {"method": "thread_time_ns", "clock_us": clock_us()}
    if options.json:
        rows = [asdict(result) for result in results]
        print(json.dumps(about | {"growth": growth, "holds": holds, "results": rows}))
    else:
        print(about)
        for r in results:
            times = f"p50 {r.p50_us:6.2f} µs  p95 {r.p95_us:6.2f} µs  min {r.min_us:6.2f} µs"
            print(f"{r.operation:8} {r.length:5} tokens  {times}  ({r.num_runs} runs)")
        print(f"growth from {LENGTHS[0]} to {LENGTHS[-1]} tokens: {growth}")
        print("within the bounds" if holds else "ABOVE a bound")
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
