"""What a step of each member costs: one token drawn, and a verify of a block.

    python -m benchmarks.steps --json

The members of the pool in one process, each with its engine, dtype and quantisation. ``in turn``:
one step of every member after the other, so that each finds the caches as the others have left
them. ``in a row``: 30 steps of one member, then of the next. The target is there a second time
through torch's operations, as on a machine where the compiled decoder is not; it has its turns
behind all others', since the threads of torch keep the cores for a while behind an operation.
``of_bound`` is the share of a step in which its weights would be read as fast as memory delivers
them to one core.
"""

import argparse
import statistics
import time
from array import array
from itertools import product
from unittest.mock import patch

import torch
from tqdm import trange

from benchmarks.report import add_json_argument, print_report
from benchmarks.stage_times import bandwidth_bytes_per_s
from specrouter_dist.cli.session import open_pool
from specrouter_dist.config import ModelMember, SamplingParams
from specrouter_dist.engine import fast_loading
from specrouter_dist.engine.factory import load_engine
from specrouter_dist.engine.interface import Engine, Extension
from specrouter_dist.pools.loading import model_members
from specrouter_dist.speculation.messages import TOKEN_TYPECODE

_CONTEXT_TOKENS = 128
_IN_A_ROW = 30
_GREEDY = SamplingParams(temperature=0.0, max_tokens=64)


class Stepper:
    """One member with a session of ``_CONTEXT_TOKENS`` tokens."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        tokens = array(TOKEN_TYPECODE, [5] * _CONTEXT_TOKENS)
        self._slot = engine.open(_GREEDY, _CONTEXT_TOKENS, _CONTEXT_TOKENS + 32)
        engine.extend([Extension(self._slot, 0, tokens, 1)])

    @property
    def weight_bytes(self) -> int:
        return self._engine.info.weight_bytes

    def step_us(self, num_rows: int) -> float:
        """Time of a forward of ``num_rows``, a pick after each."""
        tokens = array(TOKEN_TYPECODE, [5] * num_rows)
        started = time.perf_counter()
        self._engine.extend([Extension(self._slot, _CONTEXT_TOKENS, tokens, num_rows)])
        return (time.perf_counter() - started) * 1e6


def measure(steppers: dict[str, Stepper], rounds: int) -> dict[tuple[str, int, str], float]:
    """Median times by member, number of rows and order."""
    samples: dict[tuple[str, int, str], list[float]] = {}
    for _ in trange(rounds, desc="rounds", leave=False):
        for num_rows, repeats in product((1, 4, 8), (1, _IN_A_ROW)):
            for (name, stepper), _ in product(steppers.items(), range(repeats)):
                order = "in turn" if repeats == 1 else "in a row"
                samples.setdefault((name, num_rows, order), []).append(stepper.step_us(num_rows))
    return {key: statistics.median(values) for key, values in samples.items()}


def main() -> None:
    """Parses the arguments, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pool", default="tiny")
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--threads", type=int, default=1)
    add_json_argument(parser)
    arguments = parser.parse_args()
    pool, report = open_pool(arguments.pool, dtype=None)
    bytes_per_us = bandwidth_bytes_per_s("cpu") / 1e6
    torch.set_num_threads(arguments.threads)
    target = pool.config.target

    def stepper(member: ModelMember) -> Stepper:
        directory = pool.directories[member.name]
        exact = pool.config.exact
        return Stepper(load_engine(member, directory, num_ids=report.num_ids, exact=exact))

    steppers = {member.name: stepper(member) for member in model_members(pool)}
    medians = measure(steppers, arguments.rounds)
    with patch.object(fast_loading, "find_library", return_value=None):
        through_torch = {f"{target.name}, through torch": stepper(target)}
    medians |= measure(through_torch, arguments.rounds)
    steppers |= through_torch
    rows = [
        {
            "member": name,
            "rows": num_rows,
            "order": order,
            "us": round(us, 1),
            "target_steps": round(us / medians[target.name, 1, order], 3),
            "of_bound": round(steppers[name].weight_bytes / bytes_per_us / us, 3),
        }
        for (name, num_rows, order), us in sorted(medians.items())
    ]
    print_report("steps", arguments, {"rows": rows})


if __name__ == "__main__":
    main()
