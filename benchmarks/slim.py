"""Slim verifiers: masks, chains with and without them, where they pay, and their memory.

    python -m benchmarks.slim --json

Masks for 25, 45 and 60 % of the target's layers are searched on dev prompts and read on others of
dev and eval, beside random masks of the same budget and the pool's other drafters. The one of the
best chain joins the pool: on prompts of dev and of eval, chains with and without it run
interleaved, one request at a time and without a prefix cache, and must print what the target alone
prints. Then the same at the shapes of real models, simulated, and the memory of a worker with the
target, with the slim member beside it, and with tiers. Exit code 1 if an output differs. From which
agreement on a slim level pays is measured by ``benchmarks.slim_break_even``.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from benchmarks import slim_simulated
from benchmarks.arms import pool_arguments
from benchmarks.pools import without_prefix_cache
from benchmarks.prompts import read_prompts
from benchmarks.report import add_json_argument, print_report
from benchmarks.slim_chains import chains_of, compare_chains
from benchmarks.slim_masks import compare_masks
from benchmarks.worker_memory import measure_apart
from specrouter_dist.actors.starting import HOP_US
from specrouter_dist.actors.state_file import state_directory
from specrouter_dist.cli.backends import open_backend
from specrouter_dist.cli.options import BackendName
from specrouter_dist.cli.session import open_pool
from specrouter_dist.config import SamplingParams
from specrouter_dist.pools.loading import Pool, lookup_members, model_members, portable_members
from specrouter_dist.slim.finding import Findings, Found, SlimSearch
from specrouter_dist.slim.settings import SearchSettings
from specrouter_dist.speculation.messages import TokenArray
from specrouter_dist.text.tokenizer import Tokenizer

_SKIPS = (0.25, 0.45, 0.6)
_LONGEST_PROMPT = 512


def prompts_of(
    arguments: argparse.Namespace, pool: Pool, split: str, count: int
) -> list[TokenArray]:
    """The first of each task in turn that are not too long."""
    tokenizer = Tokenizer.load(pool.directories[pool.config.target.name])
    texts = read_prompts(arguments.data, split, count)
    encoded = (tokenizer.encode(prompt.text) for prompt in texts)
    return [ids for ids in encoded if len(ids) <= _LONGEST_PROMPT][:count]


def make_search(arguments: argparse.Namespace, pool: Pool, report: Any) -> SlimSearch:
    """Not run yet. Tasks come in turn, so each half has all of them."""
    settings = SearchSettings(
        skip=_SKIPS,
        max_evaluations=arguments.max_evaluations,
        num_prompts=2 * arguments.prompts,
        max_tokens=arguments.max_tokens,
    )
    dev = prompts_of(arguments, pool, "dev", 2 * arguments.prompts)
    halves = dev[: arguments.prompts], dev[arguments.prompts :]
    one_device = arguments.backend == "local"
    return SlimSearch(pool, report, settings, halves, one_device, 0.0 if one_device else HOP_US)


def write_pool(pool: Pool, file: Path, members: list[dict[str, Any]]) -> str:
    """A pool file with these members."""
    content = {"name": file.stem, "exact": pool.config.exact, "members": members}
    file.write_text(yaml.safe_dump(content), encoding="utf-8")
    return str(file)


def run_chains(
    arguments: argparse.Namespace, file: str, slim: str, prompts: Sequence[TokenArray]
) -> list[dict[str, object]]:
    """Chains of the pool with the slim member."""
    pool, report = open_pool(file, dtype=None)
    lookups = tuple(member.name for member in lookup_members(pool))
    *drafters, target = (member.name for member in model_members(pool))
    chains = chains_of(lookups, tuple(drafters), slim, target)
    sampling = SamplingParams(temperature=0.0, max_tokens=arguments.max_tokens)
    with open_backend(
        without_prefix_cache(pool), report, BackendName(arguments.backend)
    ) as backend:
        return compare_chains(backend, chains, prompts, sampling, arguments.passes)


def memory(pool: Pool, folder: Path, slim: dict[str, Any]) -> dict[str, object]:
    """Of a worker with the target, with the slim member beside it, and with tiers; in each there
    is a lookup, since without a draft no tier commits anything."""
    target = pool.config.target.name
    lookup: dict[str, Any] = {"name": "lookup", "kind": "lookup"}
    members = [lookup, *(m for m in portable_members(pool) if m["name"] == target)]
    alone = measure_apart(write_pool(pool, folder / "alone.yaml", members))
    beside_file = write_pool(pool, folder / "beside.yaml", [*members, slim])
    beside = measure_apart(beside_file)
    tiered = measure_apart(beside_file, ("lookup", slim["name"], target))
    return {
        "target": alone,
        "with_slim": {**beside, "ratios": {key: beside[key] / alone[key] for key in alone}},
        "with_tiers": {**tiered, "ratios": {key: tiered[key] / alone[key] for key in alone}},
    }


def best_of(findings: Findings) -> Found:
    """The mask of the best chain, paying or not."""
    return min(findings.found, key=lambda one: one.held_out.predicted_us)


def main() -> None:
    """Parses the arguments, measures, prints."""
    parser = pool_arguments(__doc__)
    parser.add_argument("--prompts", type=int, default=24, help="of each set that masks see")
    parser.add_argument("--max-evaluations", type=int, default=32)
    parser.add_argument("--random", type=int, default=12, help="masks of each budget")
    parser.add_argument("--chain-prompts", type=int, default=8)
    parser.add_argument("--passes", type=int, default=5)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--simulated-tokens", type=int, default=8000)
    add_json_argument(parser)
    arguments = parser.parse_args()
    pool, report = open_pool(arguments.pool, dtype=None)
    search = make_search(arguments, pool, report)
    findings = search.run(state_directory())
    held_out: dict[str, Sequence[TokenArray]] = {"dev": search.halves[1]}
    held_out["eval"] = prompts_of(arguments, pool, "eval", arguments.prompts)
    masks = compare_masks(search, findings, held_out, arguments.random)
    best = best_of(findings)
    with tempfile.TemporaryDirectory() as folder:
        new = findings.member(best)
        members = [*portable_members(pool), new]
        file = write_pool(pool, Path(folder) / "slim.yaml", members)
        chains = {
            split: run_chains(arguments, file, best.name, prompts[: arguments.chain_prompts])
            for split, prompts in held_out.items()
        }
        used = memory(pool, Path(folder), new)
    results = {
        "found": [{**asdict(one), "pays": findings.pays(one)} for one in findings.found],
        "without": {"chain": findings.without_chain, "predicted_us": findings.without_us},
        "masks": masks,
        "chains": chains,
        "simulated": list(slim_simulated.rows(arguments.simulated_tokens)),
        "memory": used,
    }
    print_report("slim", arguments, results)
    sys.exit(any(row["num_differing"] for rows in chains.values() for row in rows))


if __name__ == "__main__":
    main()
