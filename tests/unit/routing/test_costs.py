"""Arrays of times, hops and tokens are what the tables say one by one, also after they learn."""

import numpy as np
import pytest

from specrouter_dist.routing.costs import LENGTHS, MAX_DRAFT_TOKENS, Costs, Drafts, Floats, Regime
from specrouter_dist.routing.observations import (
    ForwardKey,
    ForwardTimes,
    Observations,
    PairKey,
    Survival,
)
from specrouter_dist.routing.replay import own_text_names
from specrouter_dist.routing.router import Router
from specrouter_dist.routing.traffic import GREEDY
from tests.unit.routing.learned import TIMES_US, learned_router, profile

ALONE = Regime(GREEDY)
DRAFTS = Drafts.of(("lookup", "small", "medium"))


@pytest.fixture
def router() -> Router:
    return learned_router()


def costs(router: Router, regime: Regime = ALONE) -> Costs:
    lookups = frozenset({"lookup"})
    devices = {name: name for name in TIMES_US}
    return Costs(regime, "target", lookups, devices, router.latency, router.agreement)


def one_by_one(of: Costs, verifier: str) -> Floats:
    curves = [of.curve(draft, verifier) for draft in DRAFTS.rows]
    return np.array([curve.token_array[1 : MAX_DRAFT_TOKENS + 1] for curve in curves])


@pytest.mark.parametrize("num_sessions", [1, 3])
def test_times_of_all_lengths_are_those_of_each(router: Router, num_sessions: int) -> None:
    of, latency = costs(router, Regime(GREEDY, num_sessions)), router.latency
    drawn = [latency.drafting_us("small", int(n), num_sessions) for n in LENGTHS]
    assert of.drafting_us("small").tolist() == drawn
    verified = [latency.forward_us("target", n + 1, num_sessions) for n in LENGTHS]
    assert of.verifying_us("target").tolist() == verified


def test_times_of_all_lengths_follow_a_new_profile(router: Router) -> None:
    before = costs(router).drafting_us("small")
    slower = Observations(is_profile=True)
    for key, times in profile().forwards.items():
        times.total_us *= 2
        slower.forwards[key] = times
    router.observe(slower, 0.0)
    assert costs(router).drafting_us("small") == pytest.approx(2 * before)


def fast_target(*, longest: int) -> Router:
    """Steps of a millisecond; runs of up to ``longest`` tokens were profiled, at half of that for
    each further one."""
    made = Router(("target",), {}, {"target": "here"}, hop_us=0.0)
    told = Observations(is_profile=True)
    for num_tokens in {1, longest}:
        key = ForwardKey("target", 1, 1, num_tokens - 1)
        told.forwards[key] = ForwardTimes(1, 500.0 + 500.0 * num_tokens)
    made.observe(told, 0.0)
    return made


@pytest.mark.parametrize(("longest", "us"), [(1, 1000.0), (4, 1000.0), (8, 562.5), (16, 562.5)])
def test_a_fast_target_alone_costs_what_its_runs_do(longest: int, us: float) -> None:
    assert costs(fast_target(longest=longest)).alone_us("target") == us


def test_hops_of_all_drafters_are_those_of_each(router: Router) -> None:
    of = costs(router)
    for verifier in ("medium", "target"):
        expected = [of.hop_us(draft, verifier) for draft in DRAFTS.rows]
        assert of.hops_us(DRAFTS, verifier).tolist() == expected
    assert len(set(of.hops_us(DRAFTS, "target"))) > 2, "none, observed, and assumed"


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_tokens_of_all_drafters_are_those_of_each(router: Router, scale: float) -> None:
    for verifier in ("medium", "target"):
        of = costs(router, Regime(GREEDY, scale=scale))
        assert (of.tokens(DRAFTS, verifier) == one_by_one(of, verifier)).all()


def test_tokens_are_made_again_when_more_is_learned_of_a_verifier(router: Router) -> None:
    table, names = router.agreement, DRAFTS.names
    before = {name: table.known_tokens(names, name, GREEDY) for name in ("medium", "target")}
    table.record(PairKey("small", "target", GREEDY), Survival([99], [0], 99))
    assert table.known_tokens(names, "medium", GREEDY) is before["medium"]
    of = costs(router)
    assert (of.tokens(DRAFTS, "target") == one_by_one(of, "target")).all()
    assert table.known_tokens(names, "target", GREEDY) is not before["target"]


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_the_own_text_is_known_by_edge(router: Router, scale: float) -> None:
    own, beside = own_text_names("small", 4)
    before = costs(router)
    assert not before.knows_own_text("small", "medium", 4)
    assert before.own_text("small", "medium", 4).share == 0.0
    for name, survival in (
        (own, Survival([400, 300], [300, 0], num_blocks=1000, num_empty=600)),
        (beside, Survival([600, 300], [300, 150], num_blocks=600)),
    ):
        router.agreement.record(PairKey(name, "medium", GREEDY), survival)
    of = costs(router, Regime(GREEDY, scale=scale))
    found = of.own_text("small", "medium", 4)
    assert found.share == pytest.approx(0.4, abs=0.01)
    assert found.tokens[:2] == pytest.approx([1.0, 1.75], abs=0.01)
    # Requests that agree less do so with the target alone.
    assert found.drafted.conditional[0] == pytest.approx(0.5, abs=0.01)
    for other in (("small", "target", 4), ("medium", "medium", 4), ("small", "medium", 5)):
        assert not of.knows_own_text(*other)
    never = of.own_text("small", "medium", 0)
    assert never.share == 0.0
    assert never.drafted is of.curve("small", "medium")


def test_the_targets_own_text_goes_with_how_the_request_agrees(router: Router) -> None:
    for name in own_text_names("small", 3):
        survival = Survival([600], [300], num_blocks=600)
        router.agreement.record(PairKey(name, "target", GREEDY), survival)
    usual, half = (
        costs(router, Regime(GREEDY, scale=scale)).own_text("small", "target", 3)
        for scale in (1.0, 0.5)
    )
    assert half.drafted.conditional[0] == pytest.approx(usual.drafted.conditional[0] / 2)
    assert half.tokens[1] - 1 == pytest.approx((usual.tokens[1] - 1) / 2)
