"""One arm of a comparison: the same prompts through one chain."""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from benchmarks.prompts import DATA
from specrouter_dist.cli.options import BackendName
from specrouter_dist.config import SamplingParams
from specrouter_dist.serving.backend import PoolBackend
from specrouter_dist.serving.results import GenerateRequest, GenerateResult
from specrouter_dist.speculation.messages import TokenArray


def run_arm(
    backend: PoolBackend,
    prompts: Sequence[TokenArray],
    chain: tuple[str, ...] | None,
    sampling: SamplingParams,
    concurrency: int,
) -> tuple[list[GenerateResult], float]:
    """All prompts through ``chain`` (None: the router's choice), each with a seed of its own.

    Returns:
        the results in order, and the tokens per second over all of them.
    """
    requests = [
        GenerateRequest(ids, sampling.model_copy(update={"seed": seed}), chain)
        for seed, ids in enumerate(prompts)
    ]
    name = f"T={sampling.temperature} {','.join(chain or ('auto',))}"
    started = time.perf_counter()
    outputs = backend.generate(requests, concurrency=concurrency)
    results = list(tqdm(outputs, desc=name, total=len(prompts), leave=False))
    num_tokens = sum(len(result.token_ids) for result in results)
    return results, num_tokens / (time.perf_counter() - started)


def pool_arguments(doc: str) -> argparse.ArgumentParser:
    """What a benchmark can be told of its pool, and where prompts lie; ``doc``: the module's."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--pool", default="tiny")
    parser.add_argument("--backend", choices=[b.value for b in BackendName], default="ray")
    parser.add_argument("--data", type=Path, default=DATA)
    return parser


def comparison_arguments(doc: str) -> argparse.ArgumentParser:
    """The same, and which prompts a comparison of arms runs."""
    parser = pool_arguments(doc)
    parser.add_argument("--split", choices=["dev", "eval"], default="dev")
    return parser
