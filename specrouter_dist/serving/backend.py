"""Requests over a pool that runs, in this process or in actors."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Protocol, Self

from specrouter_dist.config import Plan, SamplingParams
from specrouter_dist.pools.checks import PoolReport
from specrouter_dist.pools.loading import Pool
from specrouter_dist.pools.lossy import check_lossy
from specrouter_dist.pools.synthetic import check_synthetic
from specrouter_dist.routing.explanation import as_plain
from specrouter_dist.routing.planner import Candidate
from specrouter_dist.routing.plans import PlanTable
from specrouter_dist.routing.traffic import Traffic
from specrouter_dist.serving.client import Client, Generation, run_in_order
from specrouter_dist.serving.results import GenerateRequest, GenerateResult
from specrouter_dist.serving.tasks import Tasks
from specrouter_dist.text.tokenizer import Tokenizer
from specrouter_dist.tracing.records import WorkerTrace


class RouterView(Protocol):
    """What a router answers."""

    def plan_of(self, chain: Sequence[str], traffic: Traffic) -> Plan:
        """A plan for a chain that the user has named."""
        ...

    def candidates(self, traffic: Traffic) -> list[Candidate]:
        """All chains with their predicted times, best first."""
        ...

    def table(self) -> PlanTable:
        """The router's present choice."""
        ...

    def explain(self) -> dict[str, Any]:
        """What the router knows and has decided (routing/explanation.py), as plain values."""
        ...


class Running(RouterView, Protocol):
    """A pool that runs: LocalPool, or the RunningPool of actors/."""

    @property
    def client(self) -> Client: ...

    @property
    def is_new(self) -> bool:
        """Whether it was started just now and nobody has used it yet."""
        ...

    def start_trace(self) -> None:
        """Every worker records where its time goes, from now on."""
        ...

    def take_trace(self) -> list[WorkerTrace]:
        """What every worker has recorded since; the recording ends."""
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
        self._config = pool.config
        self._eos_ids = report.eos_ids
        self._tokenizer = Tokenizer.load(pool.directories[pool.config.target.name])
        self._tasks = Tasks.of(pool)
        self._on_close = on_close

    def generation(self, request: GenerateRequest) -> Generation:
        """The request, ready to be submitted.

        Raises:
            RequestError: it is lossy, and that does not go with what else it says, or the pool is
                synthetic and cannot draw so.
        """
        check_synthetic(self._config, request.sampling)
        request = self._tasks.name(request)
        if request.lossy is not None:
            chain = request.plan.chain if request.plan else request.chain
            check_lossy(self._config, chain, request.sampling)
        return Generation(request, self._tokenizer, self._eos_ids, self._plan_of(request))

    def _plan_of(self, request: GenerateRequest) -> Plan | None:
        if request.plan is not None or request.chain is None:
            return request.plan
        if len(request.chain) == 1:
            # It has no knobs, so nobody need be asked.
            return Plan(chain=request.chain)
        return self.running.plan_of(request.chain, request.traffic)

    def generate(
        self, requests: Sequence[GenerateRequest], *, concurrency: int
    ) -> Iterator[GenerateResult]:
        """Results in the order of the requests, of which ``concurrency`` run at a time."""
        generations = [partial(self.generation, request) for request in requests]
        return run_in_order(self.running.client, generations, concurrency=concurrency)

    def plan(self, sampling: SamplingParams) -> dict[str, Any]:
        """The router's choice for such a request, the candidates, and all that it knows."""
        return describe_plan(self.running, sampling)

    def close(self) -> None:
        """Stops everything the backend started."""
        self.running.close()
        if self._on_close is not None:
            self._on_close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def describe_plan(router: RouterView, sampling: SamplingParams) -> dict[str, Any]:
    """The router's choice for one such request alone, the candidates, and all that it knows."""
    traffic = Traffic.of(sampling)
    chosen = router.table().plan(traffic)
    return {
        "traffic": traffic._asdict(),
        "chain": list(chosen.chain),
        "edges": [edge.model_dump() for edge in chosen.edges],
        "candidates": [as_plain(candidate) for candidate in router.candidates(traffic)],
        "router": router.explain(),
    }
