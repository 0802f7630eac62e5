"""What the rounds of a verifier cost: blocks that are drawn, and blocks that are whole rounds."""

import random

import numpy as np
import pytest

from specrouter_dist.routing.agreement import Curve
from specrouter_dist.routing.costs import LENGTHS, Costs, Regime
from specrouter_dist.routing.observations import ForwardKey, ForwardTimes, PairKey, Survival
from specrouter_dist.routing.rounds import Blocks, Rounds, Way, ways
from specrouter_dist.routing.router import Router
from specrouter_dist.routing.traffic import GREEDY

TIMES_US = {"small": 200.0, "medium": 600.0, "target": 3000.0}
HOP_US = 100.0


@pytest.fixture
def costs() -> Costs:
    router = Router(list(TIMES_US), {}, {name: name for name in TIMES_US}, hop_us=HOP_US)
    for name, us in TIMES_US.items():
        for rows in (1, 17):
            router.latency.profile(ForwardKey(name, rows, 1), ForwardTimes(1, us))
        for drafts in (1, 15):
            key = ForwardKey(name, 1, 1, drafts)
            router.latency.profile(key, ForwardTimes(1, us * (drafts + 1)))
    for draft, verifier in (("small", "medium"), ("small", "target"), ("medium", "target")):
        survival = Survival()
        for _ in range(1000):
            for num_accepted, times in ((0, 2), (1, 1), (4, 3), (8, 4)):
                for _ in range(times):
                    survival.add(8, num_accepted)
        router.agreement.record(PairKey(draft, verifier, GREEDY), survival)
    devices = {name: name for name in TIMES_US}
    return Costs(Regime(GREEDY), "target", frozenset(), devices, router.latency, router.agreement)


def curve(*conditional: float) -> Curve:
    return Curve.make(conditional + (0.5,) * (17 - len(conditional)), 0.6, 0.0)


def num_new(of: Curve, num_proposals: int, rng: random.Random) -> int:
    """Tokens of one round."""
    accepted = 0
    while accepted < num_proposals and rng.random() < of.conditional[accepted]:
        accepted += 1
    return accepted + 1


def test_a_round_in_lock_step_is_the_formula(costs: Costs) -> None:
    blocks = Blocks.drawn(costs.drafting_us("small"))
    rounds = Rounds.of(costs, "small", "target", blocks, Way())
    tokens = costs.curve("small", "target").tokens
    for g in (1, 4, 16):
        assert rounds.times_us[0, g - 1] == pytest.approx(g * 200.0 + HOP_US + 3000.0)
        assert rounds.num_tokens[0, g - 1] == pytest.approx(tokens[g])


@pytest.mark.parametrize("num_proposals", [1, 3, 6])
@pytest.mark.parametrize("conditional", [(0.9, 0.8, 0.9), (0.2, 0.95), (0.5,)])
def test_whole_rounds_are_those_of_a_simulation(
    num_proposals: int, conditional: tuple[float, ...]
) -> None:
    of, rng, num_runs = curve(*conditional), random.Random(0), 4000
    at = num_proposals - 1
    round_us = 700.0
    rounds = Rounds(
        of,
        LENGTHS[None],
        np.full((1, len(LENGTHS)), round_us),
        np.array([of.tokens[1 : len(LENGTHS) + 1]]),
        np.full((1, len(LENGTHS)), round_us),
    )
    blocks = rounds.blocks((0, at))
    for wanted in (1, 2, 5, 11):
        times_us = num_tokens = 0.0
        for _ in range(num_runs):
            there = 0
            while there < wanted:
                there += num_new(of, num_proposals, rng)
                times_us += round_us
            num_tokens += there
        assert blocks.times_us[0, wanted - 1] == pytest.approx(times_us / num_runs, rel=0.03)
        assert blocks.num_tokens[0, wanted - 1] == pytest.approx(num_tokens / num_runs, rel=0.03)


def test_a_verifier_feeds_all_that_its_upstream_hands_down(costs: Costs) -> None:
    below = Rounds.of(
        costs, "small", "medium", Blocks.drawn(costs.drafting_us("small")), Way()
    ).blocks((0, 7))
    assert (below.num_tokens > LENGTHS).any()
    rounds = Rounds.of(costs, "medium", "target", below, Way())
    tokens = costs.curve("medium", "target").tokens
    assert rounds.num_tokens[0, 0] == pytest.approx(
        np.interp(below.num_tokens[0, 0], range(len(tokens)), tokens)
    )


def test_device_time_counts_the_more_the_more_requests_share_the_devices(costs: Costs) -> None:
    rounds = Rounds.of(costs, "small", "target", Blocks.drawn(costs.drafting_us("small")), Way())
    assert rounds.devices_us[0, 3] == pytest.approx(4 * 200.0 + 3000.0)
    assert rounds.prices_us(Regime(GREEDY)) == pytest.approx(rounds.taus_us)
    shares = [
        (rounds.prices_us(Regime(GREEDY, n)) - rounds.taus_us) / rounds.token_devices_us(n)
        for n in (2, 4, 32)
    ]
    assert (shares[0] > 0).all()
    assert (shares[0] < shares[1]).all()
    assert (shares[1] < shares[2]).all()


def test_drafting_ahead_costs_device_time(costs: Costs) -> None:
    blocks = Blocks.drawn(costs.drafting_us("small"))
    waits, ahead = (Rounds.of(costs, "small", "target", blocks, Way(ahead)) for ahead in (0, 1))
    assert (ahead.times_us < waits.times_us)[0, 3]
    assert (ahead.devices_us > waits.devices_us).all()


def test_edges_between_devices_may_draft_ahead_each_for_itself(costs: Costs) -> None:
    assert {way.ahead for way in ways(costs, "small", "medium")} == {False, True}
    costs.devices = {**costs.devices, "medium": costs.devices["small"]}
    assert {way.ahead for way in ways(costs, "small", "medium")} == {False}
    assert {way.ahead for way in ways(costs, "medium", "target")} == {False, True}
