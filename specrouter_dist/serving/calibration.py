"""What a pool that has just started is asked first, so that the router knows its pairs.

Every pair of members that may pay drafts and verifies the same short prompts, so that pairs are
compared on equal texts. After it, every member has decoded real tokens.
"""

import json
import logging
import math
import time
from collections.abc import Iterator
from itertools import combinations

from specrouter_dist.config import SamplingParams
from specrouter_dist.errors import SpecRouterError
from specrouter_dist.pools.checks import PoolReport
from specrouter_dist.pools.loading import POOLS_DIRECTORY, Pool, lookup_members, model_names
from specrouter_dist.serving.backend import PoolBackend
from specrouter_dist.serving.results import GenerateRequest
from specrouter_dist.text.tokenizer import Tokenizer

logger = logging.getLogger(__name__)

_PROMPTS = POOLS_DIRECTORY / "prompts" / "calibration.jsonl"
_NUM_PROMPTS = 8
_MAX_TOKENS = 32
_SEED = 20250512
_TEMPERATURES = (0.0, 0.8)
_BUDGET_S = 60.0
"""Behind it no further prompt is begun: where models are slow or many, the router has to learn the
rest from requests."""
_CONCURRENCY = 1
"""Agreement does not depend on it, but the times that are observed do."""


def pair_chains(pool: Pool, report: PoolReport) -> Iterator[tuple[str, ...]]:
    """The target alone, then a chain through every ordered pair of members, but for those whose
    drafter is no smaller than the drafter that verifies it: they cost more than that one alone."""
    models = model_names(pool)
    target = models[-1]
    yield (target,)
    lookups = [member.name for member in lookup_members(pool)]
    sizes = {member.name: member.weight_bytes for member in report.members}
    for draft, verifier in combinations([*lookups, *models], 2):
        if verifier == target:
            yield (draft, target)
        elif verifier in models and sizes.get(draft, 0) < sizes.get(verifier, math.inf):
            yield (draft, verifier, target)


def calibrate(pool: Pool, report: PoolReport, backend: PoolBackend) -> None:
    """Runs the calibration prompts, as many as there is time for; the router observes."""
    end_s = time.monotonic() + _BUDGET_S
    for requests in _rounds(pool, report):
        list(backend.generate(requests, concurrency=_CONCURRENCY))
        if time.monotonic() > end_s:
            return


def calibrate_beside(pool: Pool, report: PoolReport, backend: PoolBackend) -> bool:
    """The same of a pool that already has other requests, which go on if this does not; whether it
    did."""
    try:
        calibrate(pool, report, backend)
    except SpecRouterError as problem:
        logger.warning("calibration has ended early, requests go on: %s", problem)
        return False
    return True


def _rounds(pool: Pool, report: PoolReport) -> Iterator[list[GenerateRequest]]:
    """One prompt after the other, each through every chain."""
    tokenizer = Tokenizer.load(pool.directories[pool.config.target.name])
    lines = _PROMPTS.read_text(encoding="utf-8").splitlines()[:_NUM_PROMPTS]
    prompts = [tokenizer.encode(json.loads(line)["prompt"]) for line in lines]
    laws = [
        SamplingParams(temperature=t, max_tokens=_MAX_TOKENS, seed=_SEED) for t in _TEMPERATURES
    ]
    chains = list(pair_chains(pool, report))
    for prompt in prompts:
        yield [GenerateRequest(prompt, law, chain) for law in laws for chain in chains]
