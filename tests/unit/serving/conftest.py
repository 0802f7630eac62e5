"""The service over the embedded pool's tokenizer and a scripted target. Nothing else runs."""

from collections.abc import Iterator, Sequence

import pytest
from fastapi import FastAPI

from specrouter_dist.config import EdgeKnobs, Plan
from specrouter_dist.pools.checks import PoolReport, check_pool
from specrouter_dist.pools.loading import Pool, load_pool
from specrouter_dist.routing.traffic import Traffic
from specrouter_dist.serving.http import build_http
from specrouter_dist.serving.openai_service import OpenAIService
from specrouter_dist.text.tokenizer import Tokenizer
from tests.unit.serving.scripted import ScriptedClient, plain_answer


@pytest.fixture(scope="session")
def pool() -> Pool:
    return load_pool("tiny")


@pytest.fixture(scope="session")
def report(pool: Pool) -> PoolReport:
    return check_pool(pool)


@pytest.fixture(scope="session")
def tokenizer(pool: Pool) -> Tokenizer:
    return Tokenizer.load(pool.directories["target"])


def plan_of(chain: Sequence[str], traffic: Traffic) -> Plan:
    return Plan(number=7, chain=tuple(chain), edges=(EdgeKnobs(),) * (len(chain) - 1))


@pytest.fixture
def client() -> Iterator[ScriptedClient]:
    scripted = ScriptedClient(plain_answer)
    yield scripted
    scripted.close()


@pytest.fixture
def service(
    client: ScriptedClient, pool: Pool, report: PoolReport, tokenizer: Tokenizer
) -> OpenAIService:
    return OpenAIService(client, tokenizer, report, pool, plan_of)


@pytest.fixture
def app(service: OpenAIService) -> FastAPI:
    return build_http(service)
