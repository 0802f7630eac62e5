"""The router's choice against the target alone, with several requests at a time.

    python -m benchmarks.load --concurrency 1,2,4,8,16,32 --pairs 7 --json

A pair is the same prompts through both arms, in alternating order, so many at a time and without a
prefix cache; its ratio is that of tokens per second over all of them. One pair per concurrency is
run before and not counted, in which the router learns the load.
"""

import argparse
import statistics
from collections.abc import Sequence
from dataclasses import asdict

from tqdm import tqdm

from benchmarks.arms import comparison_arguments, run_arm
from benchmarks.pools import without_prefix_cache
from benchmarks.prompts import read_prompts
from benchmarks.report import add_json_argument, print_report
from benchmarks.statistics import median_interval
from specrouter_dist.cli.backends import open_backend
from specrouter_dist.cli.options import BackendName
from specrouter_dist.cli.session import open_pool
from specrouter_dist.config import SamplingParams
from specrouter_dist.serving.backend import PoolBackend
from specrouter_dist.serving.results import GenerateResult
from specrouter_dist.speculation.messages import TokenArray
from specrouter_dist.text.tokenizer import Tokenizer

_PROMPTS_PER_SLOT = 3
_FEWEST_PROMPTS = 24
"""With eight, an arm of a pair took a third of a second: a pause of the machine was half of it."""


def measure(
    backend: PoolBackend,
    target: str,
    prompts: Sequence[TokenArray],
    concurrency: int,
    arguments: argparse.Namespace,
) -> dict[str, object]:
    """One row: the ratio of every pair, and what the arms did."""
    sampling = SamplingParams(temperature=arguments.temperature, max_tokens=arguments.max_tokens)
    ratios, alone_speeds, auto_speeds = [], [], []
    num_differing = 0
    chains: dict[str, int] = {}
    for pair in tqdm(range(1 + arguments.pairs), desc=f"concurrency {concurrency}", leave=False):
        arms: dict[bool, tuple[list[GenerateResult], float]] = {}
        for is_auto in (False, True) if pair % 2 else (True, False):
            chain = None if is_auto else (target,)
            arms[is_auto] = run_arm(backend, prompts, chain, sampling, concurrency)
        (alone, alone_speed), (auto, auto_speed) = arms[False], arms[True]
        num_differing += sum(a.token_ids != b.token_ids for a, b in zip(alone, auto, strict=True))
        if pair == 0:
            continue
        ratios.append(auto_speed / alone_speed)
        alone_speeds.append(alone_speed)
        auto_speeds.append(auto_speed)
        for result in auto:
            name = " -> ".join(result.chain)
            chains[name] = chains.get(name, 0) + 1
    return {
        "concurrency": concurrency,
        "times_alone": asdict(median_interval(ratios)),
        "tokens_per_second_alone": statistics.median(alone_speeds),
        "tokens_per_second_auto": statistics.median(auto_speeds),
        "chains": chains,
        "num_pairs": len(ratios),
        "prompts_per_pair": len(prompts),
        "num_differing": num_differing,
    }


def main() -> None:
    """Parses the arguments, measures, prints."""
    parser = comparison_arguments(__doc__)
    parser.add_argument("--concurrency", default="1,2,4,8,16,32", help="by comma")
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--max-tokens", type=int, default=64)
    add_json_argument(parser)
    arguments = parser.parse_args()
    pool, report = open_pool(arguments.pool, dtype=None)
    pool = without_prefix_cache(pool)
    target = pool.config.target.name
    tokenizer = Tokenizer.load(pool.directories[target])
    rows = []
    with open_backend(pool, report, BackendName(arguments.backend)) as backend:
        for concurrency in map(int, arguments.concurrency.split(",")):
            count = max(_FEWEST_PROMPTS, _PROMPTS_PER_SLOT * concurrency)
            texts = read_prompts(arguments.data, arguments.split, -(-count // 4))[:count]
            prompts = [tokenizer.encode(prompt.text) for prompt in texts]
            rows.append(measure(backend, target, prompts, concurrency, arguments))
            if not arguments.json:
                print(rows[-1], flush=True)
    print_report("load", arguments, {"rows": rows})


if __name__ == "__main__":
    main()
