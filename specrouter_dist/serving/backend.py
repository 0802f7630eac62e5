"""Requests over a pool that runs, in this process or in actors."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Protocol, Self

from specrouter_dist.config import Plan, SamplingParams
from specrouter_dist.pools.checks import PoolReport
from specrouter_dist.pools.loading import Pool
from specrouter_dist.routing.planner import Candidate
from specrouter_dist.routing.plans import LOADS, PlanTable
from specrouter_dist.routing.traffic import Traffic
from specrouter_dist.serving.client import Client, Generation, run_in_order
from specrouter_dist.serving.results import GenerateRequest, GenerateResult
from specrouter_dist.text.tokenizer import Tokenizer


class Running(Protocol):
    """A pool that runs: LocalPool, or the RunningPool of actors/."""

    @property
    def client(self) -> Client: ...

    @property
    def is_new(self) -> bool:
        """Whether it was started just now and nobody has used it yet."""
        ...

    def plan_of(self, chain: Sequence[str], traffic: Traffic) -> Plan:
        """A plan for a chain that the user has named."""
        ...

    def candidates(self, traffic: Traffic) -> list[Candidate]:
        """All chains with their predicted times, best first."""
        ...

    def table(self) -> PlanTable:
        """The router's present choice."""
        ...

    def close(self) -> None:
        """Stops what was started for this process."""
        ...


class PoolBackend:
    """A running pool; leaving its context stops everything it started.

    Args:
        pool: with all directories resolved.
        report: of its checks.
        running: the same pool, running; closed with the backend.
        on_close: what else is to be ended then.
    """

    def __init__(
        self,
        pool: Pool,
        report: PoolReport,
        running: Running,
        on_close: Callable[[], None] | None = None,
    ) -> None:
        self.running = running
        self._eos_ids = report.eos_ids
        self._tokenizer = Tokenizer.load(pool.directories[pool.config.target.name])
        self._on_close = on_close

    def generation(self, request: GenerateRequest) -> Generation:
        """The request, ready to be submitted."""
        plan = request.plan
        if plan is None and request.chain is not None:
            plan = self.running.plan_of(request.chain, request.traffic)
        return Generation(request, self._tokenizer, self._eos_ids, plan)

    def generate(
        self, requests: Sequence[GenerateRequest], *, concurrency: int
    ) -> Iterator[GenerateResult]:
        """Results in the order of the requests, of which ``concurrency`` run at a time."""
        generations = [partial(self.generation, request) for request in requests]
        return run_in_order(self.running.client, generations, concurrency=concurrency)

    def plan(self, sampling: SamplingParams) -> dict[str, Any]:
        """The router's choice for such a request, and the candidates it weighed."""
        table = self.running.table()
        traffic = Traffic.of(sampling)
        chosen = table.plan(traffic)
        return {
            "chain": list(chosen.chain),
            "edges": [edge.model_dump() for edge in chosen.edges],
            "threads": chosen.threads,
            "by_load": [
                {
                    "up_to_requests": num_running,
                    "by_agreement": [
                        {
                            "times_usual": rung.scale,
                            "chain": list(rung.plan.chain),
                            "num_draft_tokens": [edge.patience for edge in rung.plan.edges],
                        }
                        for rung in sorted(ladder.rungs, key=lambda rung: rung.scale)
                    ],
                }
                for num_running, ladder in zip(LOADS, table.of(traffic), strict=True)
            ],
            "candidates": [
                {
                    "chain": list(candidate.chain),
                    "num_draft_tokens": list(candidate.num_draft_tokens),
                    "predicted_ms_per_token": candidate.predicted_us / 1e3,
                }
                for candidate in self.running.candidates(traffic)
            ],
        }

    def close(self) -> None:
        """Stops everything the backend started."""
        self.running.close()
        if self._on_close is not None:
            self._on_close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
