"""What each part of the engine and the worker brings: all of them, and without one.

    python -m benchmarks.parts --per-task 2 --passes 7 --json

Every arm is the pool in this process, started without one part; all stay, and one is asked at a
time: all prompts, one after the other, through the target alone, through a static chain and through
the router's choice. The order of the arms is drawn anew in each pass; one pass is run before and
not counted. A ratio is that of tokens per second without the part over those with all.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from tqdm import tqdm, trange

from benchmarks.arms import comparison_arguments, run_arm
from benchmarks.pools import with_exact, with_target, without_prefix_cache
from benchmarks.prompts import read_prompts
from benchmarks.report import add_json_argument, print_report
from benchmarks.statistics import median_interval
from specrouter_dist.cli.backends import open_backend
from specrouter_dist.cli.options import BackendName
from specrouter_dist.cli.session import open_pool
from specrouter_dist.config import Dtype, SamplingParams
from specrouter_dist.engine import fast_loading
from specrouter_dist.pools.checks import PoolReport
from specrouter_dist.pools.loading import Pool
from specrouter_dist.serving.backend import PoolBackend
from specrouter_dist.speculation import runs
from specrouter_dist.speculation.messages import TokenArray
from specrouter_dist.text.tokenizer import Tokenizer
from specrouter_dist.worker import model_host, reading

_SETTLE_S = 0.3
"""Pause before an arm: the one before may still be reading."""
_ALL = "all parts"

Change = tuple[object, str, object]
"""An attribute, and what it is without the part."""


@dataclass(frozen=True, slots=True)
class Part:
    """How the pool is without it."""

    pool: Callable[[Pool], Pool] = lambda pool: pool
    changes: tuple[Change, ...] = ()

    @contextmanager
    def left_out(self) -> Iterator[None]:
        """While it loads and while it is asked."""
        with ExitStack() as stack:
            for owner, name, value in self.changes:
                stack.enter_context(patch.object(owner, name, value))
            yield


PARTS = {
    _ALL: Part(),
    "the compiled decoder": Part(changes=((fast_loading, "find_library", lambda: None),)),
    "all threads but one": Part(changes=((torch, "get_num_threads", lambda: 1),)),
    "the target's weights in bfloat16": Part(lambda pool: with_target(pool, dtype=Dtype.FP32)),
    "runs of the target alone": Part(changes=((runs, "_MOST_RUN_TOKENS", 1),)),
    "several drafts in a call": Part(changes=((model_host, "MAX_DRAFTS", 1),)),
    "texts read in spare time": Part(changes=((reading, "_MOST_TEXTS", 0),)),
    "exact mode": Part(lambda pool: with_exact(pool, exact=False)),
}


class Arm:
    """The pool without a part, started."""

    def __init__(self, part: Part, pool: Pool, report: PoolReport, stack: ExitStack) -> None:
        self._part = part
        with part.left_out():
            opened = open_backend(part.pool(pool), report, BackendName.LOCAL)
        self._backend: PoolBackend = stack.enter_context(opened)

    def ask(
        self,
        prompts: Sequence[TokenArray],
        sampling: SamplingParams,
        chain: tuple[str, ...] | None,
    ) -> tuple[float, list[TokenArray]]:
        """All prompts; tokens per second, and the texts."""
        time.sleep(_SETTLE_S)
        with self._part.left_out():
            results, speed = run_arm(self._backend, prompts, chain, sampling, concurrency=1)
        return speed, [result.token_ids for result in results]


Speeds = dict[tuple[str, str], list[float]]
"""Tokens per second by part and way, of all passes."""


def measure(
    arms: Mapping[str, Arm],
    ways: Mapping[str, tuple[str, ...] | None],
    prompts: Sequence[TokenArray],
    sampling: SamplingParams,
    passes: int,
) -> tuple[Speeds, dict[str, int]]:
    """Every way of every arm in every pass; and how many texts differ from the first of their arm:
    other weights and other decoders write other texts."""
    speeds: Speeds = {(part, way): [] for part in arms for way in ways}
    first_texts: dict[str, list[TokenArray]] = {}
    num_differing = dict.fromkeys(arms, 0)
    rng = np.random.default_rng(0)
    for turn in trange(-1, passes, desc="passes"):
        for part in rng.permutation(list(arms)).tolist():
            for way, chain in ways.items():
                speed, texts = arms[part].ask(prompts, sampling, chain)
                firsts = first_texts.setdefault(part, texts)
                num_differing[part] += sum(a != b for a, b in zip(firsts, texts, strict=True))
                if turn >= 0:
                    speeds[part, way].append(speed)
    return speeds, num_differing


def summarise(speeds: Speeds, num_differing: Mapping[str, int]) -> list[dict[str, Any]]:
    """One row per part and way."""
    return [
        {
            "without": part,
            "way": way,
            "tokens_per_second": statistics.median(values),
            "times_all": asdict(
                median_interval([a / b for a, b in zip(values, speeds[_ALL, way], strict=True)])
            ),
            "num_differing": num_differing[part],
        }
        for (part, way), values in speeds.items()
    ]


def parse_arguments() -> argparse.Namespace:
    """What is asked of whom."""
    parser = comparison_arguments(__doc__)
    parser.set_defaults(backend=BackendName.LOCAL.value)
    parser.add_argument("--per-task", type=int, default=2)
    parser.add_argument("--passes", type=int, default=7)
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--chain", default="small,target", help="the static one, by comma")
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    add_json_argument(parser)
    arguments = parser.parse_args()
    if arguments.backend != BackendName.LOCAL.value:
        parser.error("--backend: parts are left out in this process, so only 'local' is accepted")
    return arguments


def main() -> None:
    """Parses the arguments, measures, prints."""
    arguments = parse_arguments()
    pool, report = open_pool(arguments.pool, dtype=None)
    pool = without_prefix_cache(pool)
    target = pool.config.target.name
    tokenizer = Tokenizer.load(pool.directories[target])
    texts = read_prompts(arguments.data, arguments.split, arguments.per_task)
    prompts = [tokenizer.encode(prompt.text) for prompt in texts]
    sampling = SamplingParams(temperature=arguments.temperature, max_tokens=arguments.max_tokens)
    chain = tuple(arguments.chain.split(","))
    ways = {"target alone": (target,), " -> ".join(chain): chain, "the router's choice": None}
    with ExitStack() as stack:
        arms = {
            name: Arm(PARTS[name], pool, report, stack)
            for name in tqdm(dict.fromkeys((_ALL, *arguments.parts)), desc="arms start")
        }
        speeds, num_differing = measure(arms, ways, prompts, sampling, arguments.passes)
    print_report("parts", arguments, {"rows": summarise(speeds, num_differing)})


if __name__ == "__main__":
    main()
