"""Every chain must print what the target alone prints, token by token.

    python -m benchmarks.lossless --prompts 200 --dtype bf16 --backend ray --concurrency 8 --json

Prompts are dev and eval in equal parts. The chains are the router's, every one of two and three
members, and lookup before each; temperatures are 0 and 0.8, each prompt with a seed of its own.
Exit code 1 if any output differs. ``--no-exact`` shows what exact mode is for.
"""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import asdict
from itertools import combinations
from pathlib import Path

from benchmarks.arms import run_arm
from benchmarks.pools import with_exact
from benchmarks.prompts import DATA, read_prompts
from benchmarks.report import add_json_argument, print_report
from specrouter_dist.cli.backends import open_backend
from specrouter_dist.cli.options import BackendName
from specrouter_dist.cli.session import open_pool
from specrouter_dist.cli.verify import compare
from specrouter_dist.config import Dtype, SamplingParams
from specrouter_dist.pools.loading import Pool, lookup_members, model_members
from specrouter_dist.serving.backend import PoolBackend
from specrouter_dist.speculation.messages import TokenArray
from specrouter_dist.text.tokenizer import Tokenizer

TEMPERATURES = (0.0, 0.8)
_ENOUGH_PER_TASK = 100


def chains_to_check(pool: Pool) -> Iterator[tuple[str, ...] | None]:
    """None (the router's choice), then all chains with up to two drafters, lookup on top."""
    yield None
    models = [member.name for member in model_members(pool)]
    lookups = [member.name for member in lookup_members(pool)]
    for count in (0, 1, 2):
        for drafters in combinations(models[:-1], count):
            if drafters:
                yield (*drafters, models[-1])
            for lookup in lookups:
                yield (lookup, *drafters, models[-1])


def encode_prompts(data: Path, tokenizer: Tokenizer, count: int, room: int) -> list[TokenArray]:
    """``count`` prompts of dev and eval in turn that leave ``room`` tokens of the context."""
    splits = [read_prompts(data, split, _ENOUGH_PER_TASK) for split in ("dev", "eval")]
    texts = [prompt.text for both in zip(*splits, strict=False) for prompt in both]
    encoded = (tokenizer.encode(text) for text in texts)
    return [ids for ids in encoded if len(ids) <= room][:count]


def check(
    pool: Pool, backend: PoolBackend, arguments: argparse.Namespace
) -> list[dict[str, object]]:
    """One row per temperature and chain."""
    target = pool.config.target.name
    tokenizer = Tokenizer.load(pool.directories[target])
    prompts = encode_prompts(arguments.data, tokenizer, arguments.prompts, arguments.room)
    rows: list[dict[str, object]] = []
    for temperature in TEMPERATURES:
        sampling = SamplingParams(
            temperature=temperature, max_tokens=arguments.max_tokens, logprobs=2
        )
        concurrency = arguments.concurrency
        wanted, alone_speed = run_arm(backend, prompts, (target,), sampling, concurrency)
        for chain in chains_to_check(pool):
            results, speed = run_arm(backend, prompts, chain, sampling, concurrency)
            differences = compare(wanted, results)
            rows.append(
                {
                    "chain": list(chain or ("auto",)),
                    "temperature": temperature,
                    "num_outputs": len(results),
                    "num_differing": len(differences),
                    "first": [asdict(difference) for difference in differences[:3]],
                    "tokens_per_second": speed,
                    "tokens_per_second_alone": alone_speed,
                }
            )
            if not arguments.json:
                print(f"T={temperature} {','.join(chain or ('auto',))}: {rows[-1]}", flush=True)
    return rows


def main() -> None:
    """Parses the arguments, checks, prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pool", default="tiny")
    parser.add_argument("--backend", choices=[b.value for b in BackendName], default="local")
    parser.add_argument("--dtype", choices=[d.value for d in Dtype], default="bf16")
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--prompts", type=int, default=200)
    parser.add_argument("--room", type=int, default=512, help="longest prompt taken, in tokens")
    parser.add_argument("--max-tokens", type=int, default=96)
    parser.add_argument("--concurrency", type=int, default=1)
    parser.add_argument("--no-exact", action="store_true", help="exact mode off")
    add_json_argument(parser)
    arguments = parser.parse_args()
    pool, report = open_pool(arguments.pool, dtype=Dtype(arguments.dtype))
    pool = with_exact(pool, exact=not arguments.no_exact)
    with open_backend(pool, report, BackendName(arguments.backend)) as backend:
        rows = check(pool, backend, arguments)
    num_differing = sum(int(str(row["num_differing"])) for row in rows)
    num_outputs = sum(int(str(row["num_outputs"])) for row in rows)
    totals = {"num_outputs": num_outputs, "num_differing": num_differing}
    print_report("lossless", arguments, {**totals, "rows": rows})
    sys.exit(1 if num_differing else 0)


if __name__ == "__main__":
    main()
