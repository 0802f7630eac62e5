"""This system as a worker, beside its peers' workers: a pool, one request at a time.

python -m benchmarks.peers.specrouter_worker --pool tiny --backend ray
"""

import argparse
import time
from array import array
from importlib.metadata import version

from benchmarks.peers.lines import Answer, Request, claim_stdout, serve
from benchmarks.pools import without_prefix_cache
from specrouter_dist.cli.backends import open_backend
from specrouter_dist.cli.options import BackendName
from specrouter_dist.cli.session import open_pool
from specrouter_dist.config import SamplingParams
from specrouter_dist.serving.backend import PoolBackend
from specrouter_dist.serving.results import GenerateRequest
from specrouter_dist.speculation.messages import TOKEN_TYPECODE


def generate(backend: PoolBackend, request: Request) -> Answer:
    """One request through the chain that it names, or the router's choice."""
    sampling = SamplingParams(
        temperature=request.temperature,
        max_tokens=request.max_tokens,
        seed=request.seed,
        ignore_eos=request.ignore_eos,
    )
    ids = array(TOKEN_TYPECODE, request.prompt_ids)
    chain = None if request.chain is None else tuple(request.chain)
    started_s = time.perf_counter()
    (result,) = backend.generate([GenerateRequest(ids, sampling, chain)], concurrency=1)
    total_ms = 1e3 * (time.perf_counter() - started_s)
    metrics = result.metrics
    return Answer(
        result.token_ids.tolist(),
        metrics.time_to_first_token_ms,
        total_ms,
        metrics.speculation.num_draft_tokens,
        metrics.speculation.num_accepted_draft_tokens,
    )


def main() -> None:
    """Loads, then serves."""
    answers = claim_stdout()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pool", required=True)
    parser.add_argument("--backend", choices=[b.value for b in BackendName], required=True)
    arguments = parser.parse_args()
    pool, report = open_pool(arguments.pool, dtype=None)
    pool = without_prefix_cache(pool)
    with open_backend(pool, report, BackendName(arguments.backend)) as backend:
        versions = {"torch": version("torch")}
        serve(answers, versions, lambda request: generate(backend, request))


if __name__ == "__main__":
    main()
