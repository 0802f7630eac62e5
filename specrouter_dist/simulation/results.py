"""What a run reports."""

from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from specrouter_dist.routing.plans import PlanTable
from specrouter_dist.routing.traffic import GREEDY
from specrouter_dist.simulation.session import Request

_NUM_INTERVALS = 20
"""Most intervals in which shares of chains are told."""
_FINEST_INTERVAL_US = 1e4


@dataclass(frozen=True, slots=True)
class ChainShares:
    """How many of the tokens of an interval each chain made."""

    start_s: float
    shares: dict[str, float]
    """By chain (members joined by arrows), adding up to 1."""


@dataclass(frozen=True, slots=True)
class PlanChange:
    """The router has changed its table."""

    at_s: float
    chain: str
    """For one request alone."""
    draft_tokens: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class MemberWork:
    """What a member did, over all its replicas."""

    num_steps: int
    busy_s: float
    """In forwards."""


@dataclass(frozen=True, slots=True)
class Results:
    """Of one run. Times are of the virtual clock."""

    num_requests: int
    num_tokens: int
    duration_s: float
    tokens_per_second: float
    token_ms_mean: float
    """Per request, from its arrival to its last token, over its tokens."""
    token_ms_p50: float
    token_ms_p95: float
    first_token_ms_p50: float
    first_token_ms_p95: float
    mean_acceptance_length: float
    """Tokens per round of the target, the recovered or bonus token included."""
    device_ms_per_token: float
    """Time in forwards, over all members."""
    utilisation: dict[str, float]
    """By device: share of the time that it was busy, the mean over its copies."""
    work: dict[str, MemberWork]
    """By member."""
    chain_shares: tuple[ChainShares, ...]
    plan_changes: tuple[PlanChange, ...]
    num_replans: int
    """Times that a running request was given another plan."""


@dataclass(slots=True)
class Recorder:
    """Collects during a run."""

    token_ms: list[float] = field(default_factory=list)
    first_token_ms: list[float] = field(default_factory=list)
    plan_changes: list[PlanChange] = field(default_factory=list)
    num_tokens: int = 0
    num_rounds: int = 0
    num_replans: int = 0
    device_us: float = 0.0
    _chain_tokens: Counter[tuple[int, tuple[str, ...]]] = field(default_factory=Counter)
    """By interval of the finest length and chain."""

    def on_tokens(self, now_us: float, chain: tuple[str, ...], num_tokens: int) -> None:
        """The target has made so many tokens with that chain."""
        self._chain_tokens[int(now_us / _FINEST_INTERVAL_US), chain] += num_tokens

    def on_ended(self, now_us: float, request: Request) -> None:
        """A request has its last token."""
        num_tokens = len(request.tokens) - len(request.prompt)
        assert request.first_token_us is not None
        self.token_ms.append((now_us - request.arrived_us) / 1e3 / num_tokens)
        self.first_token_ms.append((request.first_token_us - request.arrived_us) / 1e3)
        self.num_tokens += num_tokens
        self.num_rounds += request.num_rounds
        self.num_replans += request.num_replans
        self.device_us += request.device_us

    def on_table(self, now_us: float, table: PlanTable) -> None:
        """The router has decided."""
        plan = table.plan(GREEDY)
        lengths = tuple(edge.patience for edge in plan.edges)
        self.plan_changes.append(PlanChange(now_us / 1e6, " -> ".join(plan.chain), lengths))

    def results(
        self, duration_us: float, utilisation: dict[str, float], work: dict[str, MemberWork]
    ) -> Results:
        """The report on all of it."""
        token_ms, first_ms = np.asarray(self.token_ms), np.asarray(self.first_token_ms)
        return Results(
            num_requests=len(self.token_ms),
            num_tokens=self.num_tokens,
            duration_s=duration_us / 1e6,
            tokens_per_second=self.num_tokens / duration_us * 1e6,
            token_ms_mean=float(token_ms.mean()),
            token_ms_p50=float(np.percentile(token_ms, 50)),
            token_ms_p95=float(np.percentile(token_ms, 95)),
            first_token_ms_p50=float(np.percentile(first_ms, 50)),
            first_token_ms_p95=float(np.percentile(first_ms, 95)),
            mean_acceptance_length=self.num_tokens / self.num_rounds,
            device_ms_per_token=self.device_us / 1e3 / self.num_tokens,
            utilisation=utilisation,
            work=work,
            chain_shares=self._shares(duration_us),
            plan_changes=tuple(self.plan_changes),
            num_replans=self.num_replans,
        )

    def _shares(self, duration_us: float) -> tuple[ChainShares, ...]:
        edges = np.linspace(0.0, duration_us, _NUM_INTERVALS + 1)
        tokens = [Counter[str]() for _ in range(_NUM_INTERVALS)]
        for (index, chain), count in self._chain_tokens.items():
            share = index * _FINEST_INTERVAL_US / duration_us
            which = min(int(share * _NUM_INTERVALS), _NUM_INTERVALS - 1)
            tokens[which][" -> ".join(chain)] += count
        return tuple(
            ChainShares(
                start_s=float(start) / 1e6,
                shares={chain: n / sum(made.values()) for chain, n in sorted(made.items())},
            )
            for (start, _), made in zip(pairwise(edges), tokens, strict=True)
            if made
        )
