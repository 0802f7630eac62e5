"""The router's chain against the target alone, interleaved, per task and temperature.

    python -m benchmarks.speedup --per-task 8 --json

Both arms run through the same actors (or, with ``--backend local``, the same process), one
request at a time, counted in token ids. A pair is one prompt through both arms, in alternating
order, without a prefix cache, which would serve the second arm what the first has computed.
``--no-exact`` turns exact mode off.
"""

import statistics
from collections import defaultdict
from dataclasses import asdict

from tqdm import tqdm

from benchmarks.arms import comparison_arguments
from benchmarks.pools import with_exact, without_prefix_cache
from benchmarks.prompts import Prompt, read_prompts
from benchmarks.report import add_json_argument, print_report
from benchmarks.statistics import median_interval
from specrouter_dist.cli.backends import open_backend
from specrouter_dist.cli.options import BackendName
from specrouter_dist.cli.session import open_pool
from specrouter_dist.config import SamplingParams
from specrouter_dist.serving.backend import PoolBackend
from specrouter_dist.serving.results import GenerateRequest, GenerateResult
from specrouter_dist.text.tokenizer import Tokenizer

TEMPERATURES = (0.0, 0.8)


def run_pairs(
    backend: PoolBackend,
    tokenizer: Tokenizer,
    prompts: list[Prompt],
    chains: tuple[tuple[str, ...] | None, tuple[str, ...] | None],
    temperature: float,
    max_tokens: int,
    *,
    ignore_eos: bool,
) -> list[tuple[str, GenerateResult, GenerateResult]]:
    """Every prompt through both chains, in alternating order."""
    pairs = []
    for index, prompt in enumerate(tqdm(prompts, desc=f"T={temperature}", leave=False)):
        sampling = SamplingParams(
            temperature=temperature, max_tokens=max_tokens, seed=index, ignore_eos=ignore_eos
        )
        order = (0, 1) if index % 2 else (1, 0)
        ids = tokenizer.encode(prompt.text)
        results: dict[int, GenerateResult] = {}
        for arm in order:
            request = GenerateRequest(ids, sampling, chains[arm])
            (results[arm],) = backend.generate([request], concurrency=1)
        pairs.append((prompt.task, results[0], results[1]))
    return pairs


def summarise(pairs: list[tuple[str, GenerateResult, GenerateResult]]) -> dict[str, object]:
    """Ratios and speeds per task and over all, and how many outputs differ."""
    by_task: dict[str, list[float]] = defaultdict(list)
    for task, alone, auto in pairs:
        assert alone.tokens_per_second and auto.tokens_per_second
        ratio = auto.tokens_per_second / alone.tokens_per_second
        by_task[task].append(ratio)
        by_task["all"].append(ratio)
    speculation = [auto.metrics.speculation.mean_acceptance_length for _, _, auto in pairs]
    chains: dict[str, int] = defaultdict(int)
    for _, _, auto in pairs:
        chains[" -> ".join(auto.chain)] += 1
    return {
        "times_alone": {task: asdict(median_interval(r)) for task, r in by_task.items()},
        "tokens_per_second": {
            "alone": statistics.median(a.tokens_per_second or 0 for _, a, _ in pairs),
            "auto": statistics.median(b.tokens_per_second or 0 for _, _, b in pairs),
        },
        "mean_acceptance_length": statistics.fmean(length or 1 for length in speculation),
        "chains": dict(chains),
        "num_pairs": len(pairs),
        "num_differing": sum(a.token_ids != b.token_ids for _, a, b in pairs),
    }


def main() -> None:
    """Parses the arguments, measures, prints."""
    parser = comparison_arguments(__doc__)
    parser.add_argument("--per-task", type=int, default=8)
    parser.add_argument("--max-tokens", type=int, default=96)
    parser.add_argument("--chain", default="auto", help="members by comma; auto: the router's")
    parser.add_argument("--ignore-eos", action="store_true", help="go on behind the text's end")
    parser.add_argument("--no-exact", action="store_true", help="exact mode off")
    add_json_argument(parser)
    arguments = parser.parse_args()
    pool, report = open_pool(arguments.pool, dtype=None)
    pool = with_exact(without_prefix_cache(pool), exact=not arguments.no_exact)
    prompts = read_prompts(arguments.data, arguments.split, arguments.per_task)
    target = pool.config.target.name
    chain = None if arguments.chain == "auto" else tuple(arguments.chain.split(","))
    tokenizer = Tokenizer.load(pool.directories[target])
    results = {}
    with open_backend(pool, report, BackendName(arguments.backend)) as backend:
        for temperature in TEMPERATURES:
            pairs = run_pairs(
                backend,
                tokenizer,
                prompts,
                ((target,), chain),
                temperature,
                arguments.max_tokens,
                ignore_eos=arguments.ignore_eos,
            )
            results[f"T={temperature}"] = summarise(pairs)
    print_report("speedup", arguments, {"results": results})


if __name__ == "__main__":
    main()
