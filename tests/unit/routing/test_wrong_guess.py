"""A request that is taken to be of another task than it is: what that costs until it is seen."""

import random
from itertools import permutations

import pytest

from specrouter_dist.routing.climbing import Climb
from specrouter_dist.routing.costs import Regime
from specrouter_dist.routing.observations import (
    ForwardKey,
    ForwardTimes,
    Observations,
    PairKey,
    Survival,
)
from specrouter_dist.routing.router import Router
from specrouter_dist.routing.switching import Progress
from specrouter_dist.routing.traffic import GREEDY, Traffic
from specrouter_dist.speculation.steps import StageCounts

CODE, MATHS = Traffic("greedy", "code"), Traffic("greedy", "maths")
OWN = {CODE: "coder", MATHS: "counter"}
TIMES_US = {"coder": 300.0, "counter": 300.0, "target": 3000.0}
WELL, BADLY = 0.85, 0.3
NUM_TOKENS, NUM_PROMPT_TOKENS = 128, 64


def agreement(drafter: str, traffic: Traffic) -> float:
    return WELL if OWN[traffic] == drafter else BADLY


def blocks(alpha: float) -> Survival:
    survival = Survival(num_blocks=200)
    for k in range(8):
        survival.reached.append(round(200 * alpha**k))
        survival.accepted.append(round(200 * alpha ** (k + 1)))
    return survival


@pytest.fixture(scope="module")
def router() -> Router:
    """It has seen much of both tasks."""
    made = Router(list(TIMES_US), {}, {name: name for name in TIMES_US}, hop_us=100.0)
    seen = Observations(is_profile=True)
    for name, us in TIMES_US.items():
        for rows in (1, 9, 17):
            seen.forwards[ForwardKey(name, rows, 1)] = ForwardTimes(10, 10 * us * (1 + rows / 80))
        for tokens in (2, 16):
            seen.forwards[ForwardKey(name, 1, 1, tokens - 1)] = ForwardTimes(10, 10 * us * tokens)
    made.observe(seen, 0.0)
    known = Observations()
    for traffic in OWN:
        for draft, verifier in permutations(TIMES_US, 2):
            if draft != "target":
                alpha = agreement(draft, traffic) if verifier == "target" else BADLY
                known.pairs[PairKey(draft, verifier, traffic)] = blocks(alpha)
    made.observe(known, 0.0)
    made.decide(0.0)
    made.decide(0.1)
    return made


def cost_us(router: Router, traffic: Traffic, told: Traffic) -> tuple[float, list[str]]:
    """Expected time of a request of ``traffic`` that is taken to be ``told``, and its drafters in
    each round (empty: none)."""
    draw = random.Random(0)
    climb, counts, seen = Climb(told, lambda: 0.0), StageCounts(), Observations()
    num_done, total_us, drafters = 0, 0.0, []
    while num_done < NUM_TOKENS:
        progress = Progress(NUM_PROMPT_TOKENS + num_done, NUM_TOKENS - num_done)
        plan = climb.board(router.table.of(told)[0], 0, progress, seen)
        num_new, drafter = 1, ""
        if plan.edges:
            *_, drafter, _ = plan.chain
            length, alpha = plan.edges[-1].patience, agreement(drafter, traffic)
            accepted = next((k for k in range(length) if draw.random() >= alpha), length)
            counts.add_round(length, accepted, accepted < length)
            num_new += accepted
        else:
            counts.add_round(0, 0, False)
        climb.on_round(counts, num_new)
        prediction = router._planner.predict(plan, Regime(traffic))
        assert prediction is not None
        total_us += prediction.round_us
        num_done += num_new
        drafters.append(drafter)
    return total_us, drafters


@pytest.mark.parametrize(("traffic", "other"), [(CODE, MATHS), (MATHS, CODE)])
def test_each_task_has_its_own_drafter(router: Router, traffic: Traffic, other: Traffic) -> None:
    right_us, drafters = cost_us(router, traffic, traffic)
    assert set(drafters) == {OWN[traffic]}
    alone = router._planner.evaluate(("target",), Regime(traffic))
    assert alone is not None
    assert right_us < 0.6 * NUM_TOKENS * alone.predicted_us


@pytest.mark.parametrize(("traffic", "other"), [(CODE, MATHS), (MATHS, CODE)])
def test_a_wrong_guess_is_left_within_a_few_rounds(
    router: Router, traffic: Traffic, other: Traffic
) -> None:
    wrong_us, _ = cost_us(router, traffic, other)
    alone = router._planner.evaluate(("target",), Regime(traffic))
    assert alone is not None
    assert wrong_us < 1.05 * NUM_TOKENS * alone.predicted_us, "it costs what was to be gained"


def test_of_no_task_is_drafted_for_as_any_request(router: Router) -> None:
    plan = router.table.plan(Traffic("greedy", "unheard of"))
    assert plan == router.table.plan(GREEDY)
