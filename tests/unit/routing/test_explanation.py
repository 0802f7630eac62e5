"""What the router says of itself."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from specrouter_dist.routing import explanation
from specrouter_dist.routing.comparisons import Origin
from specrouter_dist.routing.explanation import as_plain, explain, median_error
from specrouter_dist.routing.journal import Outcome
from specrouter_dist.routing.observations import (
    Observations,
    OutcomeCounts,
    OutcomeKey,
    Pace,
    PaceKey,
    PairKey,
)
from specrouter_dist.routing.planner import Candidate, to_plan
from specrouter_dist.routing.plans import LOADS, Ladder, PlanTable
from specrouter_dist.routing.router import Router
from specrouter_dist.routing.state import Manner
from specrouter_dist.routing.traffic import GREEDY, ROOTS, Traffic
from tests.unit.routing.learned import WARM, blocks, learned_router, measured, new_router


@pytest.fixture
def router() -> Router:
    return learned_router(now_s=100.0)


def pair(content: dict[str, Any], draft: str, verifier: str, kind: Traffic) -> dict[str, Any]:
    (found,) = (
        entry
        for entry in content["pairs"]
        if (entry["draft"], entry["verifier"], entry["traffic"])
        == (draft, verifier, kind._asdict())
    )
    assert isinstance(found, dict)
    return found


def ages(content: object) -> list[float]:
    """All ages, wherever they are."""
    if isinstance(content, dict):
        below = [age for value in content.values() for age in ages(value)]
        return below + [value for key, value in content.items() if key == "age_s"]
    if isinstance(content, list):
        return [age for value in content for age in ages(value)]
    return []


@pytest.mark.parametrize("make", [new_router, learned_router])
def test_it_is_json(make: Callable[[], Router]) -> None:
    content = explain(make(), 200.0)
    assert json.loads(json.dumps(content, allow_nan=False)) == content


def test_plans_are_listed_by_kind_and_load_with_the_candidates_that_were_weighed(
    router: Router,
) -> None:
    content = explain(router, 100.0)
    assert content["number"] == 1
    assert [plans["traffic"] for plans in content["plans"]] == [
        kind._asdict() for kind in (*ROOTS, WARM)
    ]
    for plans in content["plans"]:
        assert [load["up_to_requests"] for load in plans["loads"]] == list(LOADS)
    greedy = content["plans"][0]["loads"][0]
    assert greedy["chain"] == list(router.table.plan(GREEDY).chain)
    assert [rung["times_usual"] for rung in greedy["by_agreement"]] == [0.2, 0.4, 0.6, 0.8, 1, 1.15]
    times = [way["predicted_ms_per_token"] for way in greedy["candidates"]]
    assert times == sorted(times)
    best = greedy["candidates"][0]
    knobs = ("chain", "num_draft_tokens", "burst_tokens", "drafts_ahead", "match_tokens")
    assert [best[name] for name in knobs] == [greedy[name] for name in knobs]


def test_where_a_stage_continues_its_own_text_is_told_by_edge() -> None:
    router = learned_router(now_s=100.0)
    way = Candidate(("small", "medium", "target"), (2, 4), 1000.0, (0, 1), (0, 3))
    ladder = Ladder.only(to_plan(way, 1))
    router.table = PlanTable({GREEDY: (ladder,) * len(LOADS)})
    (kind,) = explain(router, 100.0)["plans"]
    (rung,) = kind["loads"][0]["by_agreement"]
    assert rung["match_tokens"] == kind["loads"][0]["match_tokens"] == [0, 3]
    assert as_plain(way)["match_tokens"] == [0, 3]
    assert as_plain(way)["drafts_ahead"] == rung["drafts_ahead"] == [False, True]


def test_members_have_their_times_and_a_lookup_has_none(router: Router) -> None:
    content = explain(router, 100.0)
    lookup, small, *_ = content["members"]
    assert (lookup["name"], lookup["forward_us"], lookup["drafting_us"]) == ("lookup", {}, {})
    assert small["forward_us"]["1"] == pytest.approx(200.0)
    assert small["drafting_us"]["16"] == pytest.approx(3200.0)
    (hop,) = content["hops"]
    assert (hop["draft"], hop["verifier"]) == ("small", "target")
    assert hop["us"] == pytest.approx(router.latency.hop_us("small", "target"))
    (slowdown,) = content["slowdowns"]
    assert (slowdown["beside"], slowdown["member"]) == ("small", "target")
    assert slowdown["ratio"] == router.latency.slowdown("small", "target") > 1.0


def test_evidence_of_both_sources_has_its_size_its_age_and_their_difference() -> None:
    router = learned_router(now_s=100.0)
    later = Observations(pairs={PairKey("small", "target", GREEDY): blocks(0.7)})
    router.observe(later, 130.0)
    found = pair(explain(router, 160.0), "small", "target", GREEDY)
    chained, replayed = found["chained"], found["replayed"]
    assert (chained["age_s"], replayed["age_s"]) == (30.0, 60.0)
    assert 100 < chained["num_blocks"] < 200, "what is older counts less"
    assert replayed["num_blocks"] == 13
    assert chained["mean"] == pytest.approx(0.7, abs=0.02)
    assert replayed["mean"] == pytest.approx(0.8, abs=0.02)
    assert found["bias"] == pytest.approx(replayed["mean"] - chained["mean"])
    curve = router.agreement.curve(PairKey("small", "target", GREEDY))
    assert found["agreement"] == curve.mean
    assert found["tokens_per_round"]["4"] == curve.tokens[4]


def test_what_similarity_says_stands_beside_it(router: Router) -> None:
    content = explain(router, 160.0)
    found = pair(content, "small", "target", GREEDY)["similar"]
    assert found["score"] == found["agreement"] == found["least"] == found["most"]
    assert (found["num_positions"], found["age_s"]) == (8.0, 60.0)
    warm = pair(content, "small", "target", WARM)["similar"]
    assert 0.0 < warm["least"] <= warm["agreement"] < warm["most"] < 1.0
    assert found["origin"] == warm["origin"] == "greedy texts"
    assert pair(content, "medium", "target", WARM)["similar"] is None
    assert content["places_of_agreement"] == {
        "greedy texts": router.agreement.places[Origin.GREEDY],
        "sampled texts": 0.75,
    }


def test_without_both_sources_there_is_no_bias(router: Router) -> None:
    found = pair(explain(router, 100.0), "medium", "target", WARM)
    assert found["replayed"] is None
    assert found["bias"] is None


def test_no_age_is_negative_when_the_clock_jumps_back(router: Router) -> None:
    found = ages(explain(router, -1e6))
    assert found
    assert set(found) == {0.0}


def test_a_decision_keeps_what_it_rested_on_then() -> None:
    router = learned_router(now_s=100.0)
    for _ in range(5):
        router.observe(measured(), 500.0)
    decision = explain(router, 600.0)["decisions"][0]
    assert decision["age_s"] == 500.0
    assert decision["before"] == ["target"]
    assert decision["candidates"][0] == decision["chosen"]
    rested = {(one["draft"], one["verifier"]): one for one in decision["evidence"]}
    linked = {
        link
        for way in decision["candidates"]
        for link in zip(way["chain"], way["chain"][1:], strict=False)
    }
    assert set(rested) == linked
    assert rested["medium", "target"]["chained"] == {
        "num_blocks": 100.0,
        "mean": pytest.approx(0.85, abs=0.01),
        "age_s": 0.0,
    }


def test_predictions_stand_beside_what_was_measured(router: Router) -> None:
    content = explain(router, 107.0)
    (pace,) = content["outcomes"]["us_per_token"]
    assert (pace["of"], pace["measured"], pace["weight"]) == ("small -> target", 2000.0, 50)
    assert (pace["age_s"], pace["up_to_requests"]) == (7.0, 1)
    error = abs(pace["predicted"] - 2000.0) / 2000.0
    assert content["median_error"]["us_per_token"] == pytest.approx(error)
    (ratio,) = content["paces"]
    assert ratio["ratio"] == router.paces.ratio(Manner(("small", "target")), 1) != 1.0
    of_pairs = {outcome["of"] for outcome in content["outcomes"]["tokens_per_round"]}
    assert of_pairs == {"small -> medium", "small -> target", "medium -> target"}


def outcome(predicted: float, weight: int) -> Outcome:
    return Outcome(0.0, "a -> b", GREEDY, 1, predicted, 100.0, weight)


def test_answers_that_were_prepared_are_counted_by_what_became_of_the_block(
    router: Router,
) -> None:
    observations = Observations()
    for task in ("code", "chat"):
        key = OutcomeKey("small", Traffic("greedy", task), 2)
        for was_rejected, num_ready in ((False, 4), (False, 0), (True, 2), (True, 0)):
            observations.add_outcome(key, was_rejected, num_ready)
    lie = OutcomeCounts(num_blocks=[1, 1], num_ready=[2, 0], num_tokens=[2, 0])
    observations.outcomes[OutcomeKey("medium", GREEDY, 2)] = lie
    router.observe(observations, 100.0)
    (found,) = explain(router, 100.0)["prepared"]
    assert found == {
        "draft": "small",
        "traffic": GREEDY._asdict(),
        "num_outcomes": 2,
        "num_whole": 4,
        "share_of_whole_ready": 0.5,
        "tokens_per_ready_whole": 4.0,
        "num_rejected": 4,
        "share_of_rejected_ready": 0.5,
        "tokens_per_ready_rejected": 2.0,
    }
    assert router.num_refused == 1


def test_the_median_error_counts_rounds() -> None:
    assert median_error([]) is None
    outcomes = [outcome(110.0, 1), outcome(150.0, 1), outcome(50.0, 1), outcome(300.0, 1)]
    assert median_error(outcomes) == pytest.approx(0.5)
    assert median_error([*outcomes, outcome(101.0, 100)]) == pytest.approx(0.01)


def test_it_is_bounded(router: Router) -> None:
    for number in range(400):
        kind = Traffic("warm", f"task {number}")
        plan = router.plan_of(("small", "target"), kind)
        router.observe(
            Observations(
                pairs={PairKey("small", "target", kind): blocks(0.5)},
                paces={PaceKey(plan, kind, 1): Pace(10, 20, 1e5)},
            ),
            200.0 + number,
        )
    for number in range(300):
        router.agreement.record(PairKey(f"{number}", "target", GREEDY), blocks(0.5))
    router.decide(700.0)
    router.journal.decisions.extend(3 * list(router.journal.decisions))
    content = explain(router, 700.0)
    assert len(content["pairs"]) == explanation._MOST_PAIRS
    assert {"regime": "warm", "task": "task 399"} in [one["traffic"] for one in content["pairs"]]
    assert len(content["outcomes"]["us_per_token"]) == explanation._MOST_OUTCOMES
    assert content["outcomes"]["us_per_token"][-1]["traffic"]["task"] == "task 399"
    assert len(content["decisions"]) == explanation._MOST_DECISIONS
    assert len(content["plans"]) <= 32
    assert len(json.dumps(content)) < 1_000_000
