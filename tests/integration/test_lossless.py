"""The embedded pool: every chain prints what the target alone prints, on both backends."""

from collections.abc import Iterator
from dataclasses import replace

import pytest

from specrouter_dist.config import Dtype
from specrouter_dist.routing.costs import MAX_DRAFT_TOKENS
from specrouter_dist.serving.backend import PoolBackend
from specrouter_dist.serving.speculative import with_blocks
from tests.pools import CHAINS, open_tiny, requests, short_start

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(
    scope="module",
    params=[
        ("local", Dtype.BF16),
        ("local", Dtype.FP32),
        pytest.param(("ray", Dtype.BF16), marks=pytest.mark.ray),
    ],
    ids=lambda param: "-".join(param),
)
def backend(request: pytest.FixtureRequest) -> Iterator[PoolBackend]:
    name, dtype = request.param
    with short_start(), open_tiny(name, dtype) as opened:
        yield opened


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_every_chain_prints_what_the_target_alone_prints(
    backend: PoolBackend, temperature: float
) -> None:
    alone = list(backend.generate(requests(("target",), temperature), concurrency=1))
    wanted = [result.token_ids for result in alone]
    for chain in CHAINS:
        # Alone, one prompt of each task.
        for concurrency, num in ((1, 4), (8, 8)):
            asked = requests(chain, temperature)[:num]
            results = list(backend.generate(asked, concurrency=concurrency))
            got = [result.token_ids for result in results]
            assert got == wanted[:num], (chain, concurrency)
            if chain is not None:
                assert {result.chain for result in results} == {chain}


@pytest.mark.parametrize("num_tokens", [1, MAX_DRAFT_TOKENS])
def test_stated_blocks_change_no_text(backend: PoolBackend, num_tokens: int) -> None:
    wanted = [r.token_ids for r in backend.generate(requests(("target",), 0.8), concurrency=8)]
    chain = ("small", "medium", "target")
    asked = [
        replace(one, plan=with_blocks(backend.running.plan_of(chain, one.traffic), num_tokens))
        for one in requests(chain, 0.8)
    ]
    results = list(backend.generate(asked, concurrency=8))
    assert [result.token_ids for result in results] == wanted
    used = {use.plan.num_draft_tokens for result in results for use in result.metrics.plans}
    assert used == {(num_tokens, num_tokens)}


def test_the_response_says_what_every_level_did(backend: PoolBackend) -> None:
    chain = ("small", "medium", "target")
    results = list(backend.generate(requests(chain, 0.0), concurrency=1))
    levels = {(level.draft, level.verifier) for r in results for level in r.metrics.levels}
    assert {("small", "medium"), ("medium", "target")} <= levels
    for result in results:
        speculation = result.metrics.speculation
        own = [level for level in result.metrics.levels if level.verifier == "target"]
        assert sum(level.accepted for level in own) == speculation.num_accepted_draft_tokens
        assert speculation.num_accepted_draft_tokens < len(result.token_ids)
