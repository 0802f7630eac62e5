"""Routers that have learnt something of every sort."""

from array import array
from itertools import product

import numpy as np

from specrouter_dist.config import LookupMember
from specrouter_dist.routing.comparisons import Comparison, Origin
from specrouter_dist.routing.observations import (
    ForwardKey,
    ForwardTimes,
    LawReading,
    Observations,
    Pace,
    PaceKey,
    PairKey,
    Reading,
    Survival,
    WaitKey,
)
from specrouter_dist.routing.router import Router
from specrouter_dist.routing.similarity import SparseRows
from specrouter_dist.routing.traffic import GREEDY, Traffic
from specrouter_dist.speculation.messages import TOKEN_TYPECODE, TokenArray

WARM = Traffic("warm")
TIMES_US = {"small": 200.0, "medium": 600.0, "target": 3000.0}


def new_router() -> Router:
    """One that knows nothing."""
    lookups = {"lookup": LookupMember(kind="lookup", name="lookup")}
    return Router(list(TIMES_US), lookups, {name: name for name in TIMES_US}, hop_us=100.0)


def learned_router(now_s: float = 0.0) -> Router:
    """One with profiles, evidence of all sources, slowdowns, hops and paces; it has decided."""
    router = new_router()
    router.observe(profile(), now_s)
    router.observe(measured(), now_s)
    router.decide(now_s)
    plan = router.plan_of(("small", "target"), GREEDY)
    paced = Observations(paces={PaceKey(plan, GREEDY, 1): Pace(50, 150, 300_000.0)})
    router.observe(paced, now_s)
    return router


def profile() -> Observations:
    """What workers measure when they start."""
    found = Observations(is_profile=True)
    for (name, us), (rows, share) in product(TIMES_US.items(), ((1, 1.0), (9, 1.1), (17, 1.2))):
        for num_sessions in (1, 4):
            key = ForwardKey(name, rows * num_sessions, num_sessions)
            found.forwards[key] = ForwardTimes(10, 10 * us * share * num_sessions**0.5)
    long = ForwardKey("target", 1, 1, context_tokens=2048)
    found.forwards[long] = ForwardTimes(10, 10 * (TIMES_US["target"] + 992.0))
    for (name, us), tokens in product(TIMES_US.items(), (2, 16)):
        found.forwards[ForwardKey(name, 1, 1, tokens - 1)] = ForwardTimes(10, 10 * us * tokens)
    return found


def measured(request: int = 1) -> Observations:
    """What workers measure while they run."""
    found = Observations()
    for (draft, verifier), alpha in {
        ("small", "medium"): 0.8,
        ("small", "target"): 0.7,
        ("medium", "target"): 0.85,
    }.items():
        found.pairs[PairKey(draft, verifier, WARM)] = blocks(alpha)
        found.pairs[PairKey(draft, verifier, GREEDY)] = blocks(alpha)
    found.forwards[ForwardKey("target", 5, 1)] = ForwardTimes(30, 30 * 3600.0)
    found.forwards[ForwardKey("target", 5, 1, context_tokens=256)] = ForwardTimes(30, 30 * 3700.0)
    found.forwards[ForwardKey("target", 5, 1, beside="small")] = ForwardTimes(30, 30 * 4000.0)
    found.waits[WaitKey("small", "target", 4)] = ForwardTimes(30, 30 * 1234.5)
    found.readings += readings(request)
    found.laws += law_readings(request)
    return found


def blocks(alpha: float) -> Survival:
    """A hundred blocks of eight with geometric survival."""
    survival = Survival(num_blocks=100)
    for k in range(8):
        survival.reached.append(round(100 * alpha**k))
        survival.accepted.append(round(100 * alpha ** (k + 1)))
    return survival


def readings(request: int) -> list[Reading]:
    """``small`` misses every fifth token."""
    output = tokens(*range(100, 160))
    missed = tokens(*(0 if t % 5 == 0 else t for t in output))
    return [
        Reading(request, "target", GREEDY, output, tokens(1, 2, 3)),
        Reading(request, "small", GREEDY, missed, tokens()),
    ]


def alike(agreement: float, origin: Origin = Origin.SAMPLED) -> Comparison:
    """Of a text at whose sampled positions two members agree so often."""
    return Comparison(agreement, agreement, agreement, 8.0, origin)


def law_readings(request: int) -> list[LawReading]:
    """``small`` and the target are much alike."""
    logits = np.random.default_rng(5).standard_normal((8, 100))
    found = []
    for name, shift in (("small", 0.1), ("target", 0.0)):
        laws = np.exp(logits + shift * np.arange(100) % 1.0)
        rows = SparseRows.of(laws / laws.sum(axis=1, keepdims=True))
        found.append(LawReading(request, name, GREEDY, rows))
    return found


def tokens(*ids: int) -> TokenArray:
    return array(TOKEN_TYPECODE, ids)
