"""The service over the embedded pool's tokenizer and a scripted target. Nothing else runs."""

from collections.abc import Iterator, Sequence

import pytest
from fastapi import FastAPI

from specrouter_dist.config import Plan
from specrouter_dist.pools.checks import PoolReport, check_pool
from specrouter_dist.pools.loading import Pool, load_pool
from specrouter_dist.routing.planner import Candidate, to_plan
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


class ScriptedRouter:
    """Lock-step below, two blocks ahead at the target; all chains known, the target's first."""

    chains = (("target",), ("medium", "target"), ("small", "target"))

    def plan_of(self, chain: Sequence[str], traffic: Traffic) -> Plan:
        num_edges = len(chain) - 1
        aheads = (0,) * (num_edges - 1) + (2,) * min(1, num_edges)
        candidate = Candidate(tuple(chain), (4,) * num_edges, float("inf"), aheads)
        return to_plan(candidate, 7)

    def candidates(self, traffic: Traffic) -> list[Candidate]:
        return [Candidate(chain, (4,) * (len(chain) - 1), 1.0) for chain in self.chains]


@pytest.fixture
def router() -> ScriptedRouter:
    return ScriptedRouter()


@pytest.fixture
def client() -> Iterator[ScriptedClient]:
    scripted = ScriptedClient(plain_answer)
    yield scripted
    scripted.close()


@pytest.fixture
def service(
    client: ScriptedClient,
    pool: Pool,
    report: PoolReport,
    tokenizer: Tokenizer,
    router: ScriptedRouter,
) -> OpenAIService:
    return OpenAIService(client, tokenizer, report, pool, router)


@pytest.fixture
def app(service: OpenAIService) -> FastAPI:
    return build_http(service)
