"""What a router makes of members' laws, and of those that are none."""

from dataclasses import replace

import numpy as np
import pytest

from specrouter_dist.routing.explanation import explain
from specrouter_dist.routing.observations import LawReading, Observations, PairKey
from specrouter_dist.routing.router import Router
from specrouter_dist.routing.traffic import GREEDY, SAMPLED, Traffic
from tests.unit.routing.learned import blocks, law_readings, new_router, profile, readings

PAIR = PairKey("small", "target", SAMPLED)


def lie(**changes: object) -> LawReading:
    """The target's laws with other fields."""
    reading = law_readings(1)[1]
    return replace(reading, rows=replace(reading.rows, **changes))  # type: ignore[arg-type]


LIES = {
    "NaN": lie(logprobs=np.full((8, 64), np.nan, np.float32)),
    "negative": lie(tails=np.full(8, -1.0)),
    "ids out of range": lie(ids=law_readings(1)[1].rows.ids + 90),
    "not sorted": lie(logprobs=law_readings(1)[1].rows.logprobs[:, ::-1].copy()),
    "certain of everything": lie(logprobs=np.zeros((8, 64), np.float32)),
    "no rows": lie(ids=np.zeros((0, 64), np.uint32)),
    "a stranger's": replace(law_readings(1)[1], member="stranger"),
    "a lookup's": replace(law_readings(1)[1], member="lookup"),
}


@pytest.mark.parametrize("name", LIES)
def test_laws_that_are_none_are_refused_and_counted_and_the_rest_is_taken(name: str) -> None:
    router = new_router()
    good, _ = law_readings(1)
    pairs = {PairKey("small", "medium", GREEDY): blocks(0.5)}
    router.observe(Observations(pairs=pairs, laws=[good, LIES[name]]), 1.0)
    assert router.num_refused == 1
    assert router.agreement.scores.state(1.0) == ()
    assert router.agreement.knows("small", "medium")
    router.observe(Observations(laws=[law_readings(1)[1]]), 2.0)
    assert router.num_refused == 1
    assert router.agreement.expected(PAIR) is not None


def test_laws_of_greedy_texts_plan_requests_that_were_never_sampled() -> None:
    """Their members are nearly equal, which the guess for unknown pairs does not know."""
    router, ignorant = new_router(), new_router()
    for each in (router, ignorant):
        each.observe(profile(), 0.0)
    for request in range(8):
        _, target = law_readings(request)
        same = replace(target, member="small")
        router.observe(Observations(readings=readings(request), laws=[same, target]), 1.0)
        ignorant.observe(Observations(readings=readings(request)), 1.0)
    chain = ("small", "target")
    ours, theirs = (
        next(way for way in each.candidates(SAMPLED) if way.chain == chain)
        for each in (router, ignorant)
    )
    assert ours.predicted_us < 0.7 * theirs.predicted_us
    assert ours.num_draft_tokens > theirs.num_draft_tokens
    decided = router.decide(2.0)
    assert decided is not None and decided.plan(Traffic("hot")).chain[-2:] == chain
    grounds = {
        (one.draft, one.verifier): one
        for decision in router.journal.decisions
        if decision.traffic == SAMPLED
        for one in decision.grounds
    }
    assert grounds[chain].similar is not None
    assert grounds[chain].chained is grounds[chain].replayed is None


def seen(router: Router) -> list[tuple[str, str]]:
    return [(outcome.of, outcome.traffic.regime) for outcome in router.journal.similarities]


def test_what_similarity_predicted_is_kept_beside_what_came_of_it() -> None:
    router, warm = new_router(), Traffic("warm")
    taken = {PairKey("small", "target", warm): blocks(0.7)}
    router.observe(Observations(pairs=taken), 1.0)
    assert seen(router) == [], "nothing was predicted"
    router.observe(Observations(laws=law_readings(1)), 2.0)
    expected = router.agreement.expected(PairKey("small", "target", warm))
    assert expected is not None
    router.observe(Observations(pairs=taken), 3.0)
    assert seen(router) == [("small -> target", "warm")]
    (outcome,) = router.journal.similarities
    survival = blocks(0.7)
    assert outcome.predicted == pytest.approx(1 + expected.accepted_of(survival) / 100)
    assert outcome.measured == pytest.approx(1 + sum(survival.accepted) / 100)
    router.observe(Observations(readings=readings(9)), 4.0)
    assert seen(router)[1:] == [("small -> target", "greedy")]
    content = explain(router, 5.0)
    assert len(content["outcomes"]["tokens_per_round_by_similarity"]) == 2
    assert content["median_error"]["tokens_per_round_by_similarity"] is not None
