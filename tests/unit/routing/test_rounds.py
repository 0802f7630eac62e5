"""What the rounds of a verifier cost: blocks that are drawn, and blocks that are whole rounds."""

import random

import numpy as np
import pytest

from specrouter_dist.routing.agreement import Curve
from specrouter_dist.routing.costs import LENGTHS, Costs, Regime
from specrouter_dist.routing.interpolated import Interpolated
from specrouter_dist.routing.observations import ForwardKey, ForwardTimes, PairKey, Survival
from specrouter_dist.routing.rounds import Rounds, Way, burst_and_window, possible_aheads
from specrouter_dist.routing.router import Router
from specrouter_dist.routing.runs import Blocks, Taking
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


def rounds_of(costs: Costs, draft: str, verifier: str, ahead: int = 0) -> Rounds:
    """With blocks that the drafter draws."""
    taking = Taking(*burst_and_window(LENGTHS, np.full((1, 1, 1), ahead), np.zeros((1, 1))))
    way = Way(draft, verifier, Blocks.drawn(costs.drafting_us(draft)))
    return Rounds.of(costs, [way], taking)


def on_one_device(costs: Costs) -> Costs:
    costs.devices = dict.fromkeys(TIMES_US, "all")
    return costs


def test_a_round_on_one_device_is_the_formula(costs: Costs) -> None:
    rounds = rounds_of(on_one_device(costs), "small", "target")
    tokens = costs.curve("small", "target").tokens
    for g in (1, 4, 16):
        assert rounds.times_us[0, 0, g - 1] == pytest.approx(g * 200.0 + HOP_US + 3000.0)
        assert rounds.num_tokens[0, 0, g - 1] == pytest.approx(tokens[g], rel=0.01)


def test_in_lock_step_every_round_takes_as_long(costs: Costs) -> None:
    rounds = rounds_of(costs, "small", "target")
    times_us = rounds.times_us.reshape(-1)
    assert times_us == pytest.approx(LENGTHS * 200.0 + HOP_US + 3000.0)
    # Rounds behind whole ones begin where text is easier or harder than at a rejection.
    firsts = np.array(costs.curve("small", "target").tokens[1 : len(LENGTHS) + 1])
    assert rounds.num_tokens.reshape(-1) == pytest.approx(firsts, rel=0.2)


@pytest.mark.parametrize("num_proposals", [1, 3, 6])
@pytest.mark.parametrize("conditional", [(0.9, 0.8, 0.9), (0.2, 0.95), (0.5,)])
def test_whole_rounds_are_those_of_a_simulation(
    num_proposals: int, conditional: tuple[float, ...]
) -> None:
    of, rng, num_runs = curve(*conditional), random.Random(0), 4000
    at = num_proposals - 1
    round_us = 700.0
    all_alike = np.full((1, 1, len(LENGTHS)), round_us)
    yields = Interpolated(np.array([of.tokens]))
    rounds = Rounds(
        yields,
        yields,
        np.zeros((1, 1)),
        all_alike,
        np.array([[of.tokens[1 : len(LENGTHS) + 1]]]),
        all_alike,
        all_alike,
        np.ones_like(all_alike),
        LENGTHS[None, None],
        LENGTHS[None, None],
    )
    blocks = rounds.blocks([(0, 0, at)])
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
    below = rounds_of(on_one_device(costs), "small", "medium").blocks([(0, 0, 7)])
    assert (below.num_tokens > LENGTHS).any()
    taking = Taking(*burst_and_window(LENGTHS, np.zeros((1, 1, 1)), np.full((1, 1), 8)))
    rounds = Rounds.of(costs, [Way("medium", "target", below)], taking)
    # What it hands down for one token is what one of its rounds yields, between 1 and 9 tokens.
    rng, num_rounds, tokens = random.Random(0), 20_000, costs.curve("medium", "target").tokens
    made = [num_new(costs.curve("small", "medium"), 8, rng) for _ in range(num_rounds)]
    in_the_mean = sum(tokens[num] for num in made) / num_rounds
    at_the_mean = np.interp(sum(made) / num_rounds, range(len(tokens)), tokens)
    assert rounds.num_tokens[0, 0, 0] == pytest.approx(in_the_mean, rel=0.02)
    assert at_the_mean > 1.04 * in_the_mean


def test_device_time_counts_the_more_the_more_requests_share_the_devices(costs: Costs) -> None:
    rounds = rounds_of(costs, "small", "target")
    assert rounds.devices_us.reshape(-1)[3] == pytest.approx(4 * 200.0 + 3000.0)
    assert rounds.prices_us(Regime(GREEDY)) == pytest.approx(rounds.taus_us)
    shares = [
        (rounds.prices_us(Regime(GREEDY, n)) - rounds.taus_us) / rounds.token_devices_us(n)
        for n in (2, 4, 32)
    ]
    assert (shares[0] > 0).all()
    assert (shares[0] < shares[1]).all()
    assert (shares[1] < shares[2]).all()


def test_drafting_ahead_costs_device_time(costs: Costs) -> None:
    waits, ahead = (rounds_of(costs, "small", "target", ahead) for ahead in (0, 1))
    assert (ahead.times_us < waits.times_us).reshape(-1)[3]
    assert (ahead.devices_us > waits.devices_us).all()


def test_a_verify_beside_drafting_is_slower(costs: Costs) -> None:
    key = ForwardKey("target", 5, 1, beside="small")
    for _ in range(50):
        costs.latency.observe([(key, ForwardTimes(10, 10 * 4500.0))])
    waits, ahead = (rounds_of(costs, "small", "target", ahead) for ahead in (0, 1))
    assert waits.times_us.reshape(-1)[0] == pytest.approx(200.0 + HOP_US + 3000.0)
    assert ahead.times_us.reshape(-1)[0] > 4000.0


def test_edges_between_devices_may_draft_ahead_each_for_itself(costs: Costs) -> None:
    assert possible_aheads(costs, "small", "medium") == (0, 1, 2, 4)
    costs.devices = {**costs.devices, "medium": costs.devices["small"]}
    assert possible_aheads(costs, "small", "medium") == (0,)
    assert possible_aheads(costs, "medium", "target") == (0, 1, 2, 4)


def test_bursts_are_whole_blocks_and_what_upstream_may_hand_down_beyond() -> None:
    assert burst_and_window(3, 0, 0) == (3, 3)
    assert burst_and_window(3, 0, 4) == (7, 7)
    assert burst_and_window(3, 1, 0) == (3, 7)
    assert burst_and_window(3, 4, 2) == (14, 18)
