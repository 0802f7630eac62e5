"""What a pool that has just started is asked first, so that the router knows its pairs.

Every ordered pair of members drafts and verifies a few short prompts. After it, every member has
decoded real tokens: the pool is ready.
"""

import json
from collections.abc import Iterator
from itertools import combinations, cycle, islice

from specrouter_dist.config import SamplingParams
from specrouter_dist.pools.loading import POOLS_DIRECTORY, Pool, lookup_members, model_names
from specrouter_dist.serving.backend import PoolBackend
from specrouter_dist.serving.results import GenerateRequest
from specrouter_dist.text.tokenizer import Tokenizer

_PROMPTS = POOLS_DIRECTORY / "prompts" / "calibration.jsonl"
_PROMPTS_PER_CHAIN = 4
_MAX_TOKENS = 64
_SEED = 20250512
_TEMPERATURES = (0.0, 0.8)
_CONCURRENCY = 1
"""Agreement does not depend on it, but the times that are observed do."""


def pair_chains(pool: Pool) -> Iterator[tuple[str, ...]]:
    """The target alone, then a chain through every ordered pair of members."""
    models = model_names(pool)
    target = models[-1]
    yield (target,)
    names = [*(member.name for member in lookup_members(pool)), *models]
    for draft, verifier in combinations(names, 2):
        if verifier in models:
            yield (draft, verifier) if verifier == target else (draft, verifier, target)


def calibrate(pool: Pool, backend: PoolBackend) -> None:
    """Runs the calibration prompts; the router observes."""
    list(backend.generate(list(_requests(pool)), concurrency=_CONCURRENCY))


def _requests(pool: Pool) -> Iterator[GenerateRequest]:
    tokenizer = Tokenizer.load(pool.directories[pool.config.target.name])
    lines = _PROMPTS.read_text(encoding="utf-8").splitlines()
    prompts = cycle([tokenizer.encode(json.loads(line)["prompt"]) for line in lines])
    for temperature in _TEMPERATURES:
        sampling = SamplingParams(temperature=temperature, max_tokens=_MAX_TOKENS, seed=_SEED)
        for chain in pair_chains(pool):
            for prompt in islice(prompts, _PROMPTS_PER_CHAIN):
                yield GenerateRequest(prompt, sampling, chain)
