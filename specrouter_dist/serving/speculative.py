"""Plans for requests that say how to speculate."""

from collections.abc import Sequence
from functools import partial
from typing import Protocol

from specrouter_dist.config import EdgeKnobs, Plan, SamplingParams
from specrouter_dist.errors import InputError, RequestError
from specrouter_dist.pools.loading import Pool, parse_chain
from specrouter_dist.pools.lossy import check_lossy
from specrouter_dist.pools.synthetic import check_synthetic
from specrouter_dist.routing.planner import Candidate
from specrouter_dist.routing.rounds import burst_and_window
from specrouter_dist.routing.traffic import Traffic
from specrouter_dist.serving.asking import Asking
from specrouter_dist.serving.openai_schema import Speculation

TIMEOUT_S = 10.0
"""A router that restarts is back by then."""
_NUM_THREADS = 4
"""The router answers one question after the other."""


class Planning(Protocol):
    """What is asked of a router; may block."""

    def plan_of(self, chain: Sequence[str], traffic: Traffic) -> Plan:
        """A plan for a chain that the user has named."""
        ...

    def candidates(self, traffic: Traffic) -> list[Candidate]:
        """All chains with their predicted times, best first."""
        ...


class Speculating:
    """Makes plans of what requests say.

    Args:
        pool: the pool that runs.
        router: of the pool.
        allows_lossy: whether requests may ask for tokens that the target has not verified.
    """

    def __init__(self, pool: Pool, router: Planning, *, allows_lossy: bool) -> None:
        self._pool = pool
        self._target = pool.config.target.name
        self._router = router
        self._allows_lossy = allows_lossy
        self._asking = Asking("plan", _NUM_THREADS)

    def check(self, wanted: Speculation, sampling: SamplingParams) -> None:
        """
        Raises:
            RequestError: the pool cannot draw so or has no such chain, or its tokens are not to be
                or cannot be taken unverified; names the field.
        """
        check_synthetic(self._pool.config, sampling)
        if wanted.chain is not None:
            self._named(wanted.chain)
        elif wanted.num_speculative_tokens and len(self._pool.config.members) == 1:
            field = "speculative.num_speculative_tokens"
            raise RequestError(f"{field}: the pool has no drafter", field=field)
        self._check_lossy(wanted, sampling)

    def _check_lossy(self, wanted: Speculation, sampling: SamplingParams) -> None:
        if wanted.lossy is None:
            return
        if not self._allows_lossy:
            field = "speculative.lossy"
            raise RequestError(f"{field}: this service forbids it (allow_lossy)", field=field)
        try:
            check_lossy(self._pool.config, wanted.chain, sampling)
        except RequestError as problem:
            if problem.field not in ("chain", "lossy"):
                raise
            field = f"speculative.{problem.field}"
            raise RequestError(f"speculative.{problem}", field=field) from None

    async def plan(self, wanted: Speculation, traffic: Traffic) -> Plan | None:
        """None: the router chooses, and chooses again.

        Args:
            wanted: what has been checked.
            traffic: the kind of request.

        Raises:
            UnavailableError: the router does not answer.
        """
        if wanted.chain is None and wanted.num_speculative_tokens is None:
            return None
        if wanted.num_speculative_tokens == 0 or wanted.chain == [self._target]:
            # Nobody need be asked, and so it runs whatever has become of the router.
            return Plan(chain=(self._target,))
        return await self._asking.ask(partial(self.plan_now, wanted, traffic), TIMEOUT_S)

    def plan_now(self, wanted: Speculation, traffic: Traffic) -> Plan:
        """The plan of a request that says with whom it drafts; may block."""
        plan = self._router.plan_of(self._chain(wanted, traffic), traffic)
        num_tokens = wanted.num_speculative_tokens
        return plan if num_tokens is None else with_blocks(plan, num_tokens)

    def _chain(self, wanted: Speculation, traffic: Traffic) -> tuple[str, ...]:
        if wanted.chain is not None:
            return self._named(wanted.chain)
        # Drafters may all be away just now; the text is the same without them.
        chains = (candidate.chain for candidate in self._router.candidates(traffic))
        return next((chain for chain in chains if len(chain) > 1), (self._target,))

    def _named(self, chain: Sequence[str]) -> tuple[str, ...]:
        try:
            return parse_chain(self._pool, ",".join(chain))
        except InputError as problem:
            # A wrong field, and not, as on the command line, a thing that was not found.
            raise RequestError(f"speculative.{problem}", field="speculative.chain") from None


def with_blocks(plan: Plan, num_tokens: int) -> Plan:
    """The plan with blocks of ``num_tokens`` on every edge, in lock-step or ahead as it has them.

    So many proposals are waited for. What the rounds of a verifier in between exceed a block by
    is taken too.
    """
    edges: list[EdgeKnobs] = []
    old_overshoot = 0
    for edge in plan.edges:
        ahead = (edge.burst - old_overshoot) // edge.patience if edge.drafts_ahead else 0
        burst, window = burst_and_window(num_tokens, ahead, num_tokens if edges else 0)
        # Longer blocks take longer.
        patience_ms = edge.patience_ms * max(1.0, (num_tokens + 1) / (edge.patience + 1))
        knobs = {"patience": num_tokens, "burst": int(burst), "window": int(window)}
        edges.append(edge.model_copy(update={**knobs, "patience_ms": patience_ms}))
        old_overshoot = edge.patience
    return plan.model_copy(update={"edges": tuple(edges)})
