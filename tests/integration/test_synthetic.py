"""A synthetic pool runs like any other: the target's text, and agreement as stated, in chains."""

import asyncio
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from specrouter_dist.cli import main as cli
from specrouter_dist.cli.backends import open_backend
from specrouter_dist.cli.options import BackendName
from specrouter_dist.cli.session import open_pool
from specrouter_dist.config import EdgeKnobs, Plan
from specrouter_dist.serving.backend import PoolBackend
from specrouter_dist.serving.http import build_http
from specrouter_dist.serving.openai_service import OpenAIService
from specrouter_dist.text.tokenizer import Tokenizer
from tests.pools import (
    SLIM_AGREEMENTS,
    requests,
    short_start,
    write_slim_synthetic_pool,
    write_synthetic_pool,
)

pytestmark = pytest.mark.timeout(300)

CHAINS = [None, ("small", "target"), ("medium", "target"), ("small", "medium", "target")]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_synthetic_pool(tmp_path_factory.mktemp("pool"))


@pytest.fixture(scope="module", params=["local", pytest.param("ray", marks=pytest.mark.ray)])
def backend(request: pytest.FixtureRequest, file: Path) -> Iterator[PoolBackend]:
    pool, report = open_pool(str(file), dtype=None)
    with short_start(), open_backend(pool, report, BackendName(request.param)) as opened:
        yield opened


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_every_chain_prints_what_the_target_alone_prints(
    backend: PoolBackend, temperature: float
) -> None:
    alone = list(backend.generate(requests(("target",), temperature), concurrency=1))
    wanted = [result.token_ids for result in alone]
    assert {result.finish_reason for result in alone} == {"length"}
    for chain in CHAINS:
        results = backend.generate(requests(chain, temperature), concurrency=4)
        assert [result.token_ids for result in results] == wanted, chain


@pytest.mark.parametrize("chain", CHAINS[1:3])
def test_proposals_are_accepted_as_often_as_is_stated(
    backend: PoolBackend, chain: tuple[str, str]
) -> None:
    check_agreement(backend, chain)


def test_a_slim_level_has_real_forwards_and_stated_picks(tmp_path: Path) -> None:
    pool, report = open_pool(str(write_slim_synthetic_pool(tmp_path)), dtype=None)
    with short_start(), open_backend(pool, report, BackendName.LOCAL) as backend:
        alone = backend.generate(requests(("target",), 0.8), concurrency=4)
        wanted = [result.token_ids for result in alone]
        results = backend.generate(requests(("small", "slim", "target"), 0.8), concurrency=4)
        assert [result.token_ids for result in results] == wanted
        check_agreement(backend, ("slim", "target"))


def check_agreement(backend: PoolBackend, chain: tuple[str, str]) -> None:
    """Of blocks of one proposal, in lock-step, each is judged."""
    knobs = EdgeKnobs(patience=1, burst=1, window=1, patience_ms=1000.0)
    plan = Plan(chain=chain, edges=(knobs,))
    asked = [replace(one, plan=plan) for one in requests(chain, 0.8, max_tokens=128)]
    results = list(backend.generate(asked, concurrency=8))
    levels = [level for result in results for level in result.metrics.levels]
    assert {(level.draft, level.verifier) for level in levels} == {chain}
    num_proposed = sum(level.proposed for level in levels)
    share = sum(level.accepted for level in levels) / num_proposed
    agreement = SLIM_AGREEMENTS[chain]
    sigma = (agreement * (1 - agreement) / num_proposed) ** 0.5
    assert share == pytest.approx(agreement, abs=3 * sigma)


def test_the_commands_take_the_pool(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with short_start(), pytest.raises(SystemExit) as exited:
        cli.main(["verify", "--pool", str(file), "--prompt", "def add(", "--temperature", "0.8"])
    assert exited.value.code == 0
    assert capsys.readouterr().out.count("1 of 1 outputs equal") == 3


def test_the_service_refuses_what_needs_a_law(file: Path) -> None:
    pool, report = open_pool(str(file), dtype=None)
    with short_start(), open_backend(pool, report, BackendName.LOCAL) as backend:
        running = backend.running
        tokenizer = Tokenizer.load(pool.directories["target"])
        app = build_http(OpenAIService(running.client, tokenizer, report, pool, running))

        async def post(**fields: Any) -> httpx.Response:
            async with httpx.AsyncClient(transport=httpx.ASGITransport(app)) as client:
                body = {"model": "drawn", "prompt": "x", "max_tokens": 8, "temperature": 0}
                return await client.post("http://test/v1/completions", json=body | fields)

        answer = asyncio.run(post())
        assert answer.status_code == 200
        assert answer.json()["usage"]["completion_tokens"] == 8
        refused = asyncio.run(post(logprobs=1))
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "logprobs"
    assert "engine 'synthetic'" in json.dumps(refused.json())
