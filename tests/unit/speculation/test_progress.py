"""Invariant 7, and what lock-step achieves where it can be worked out by hand."""

from array import array
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specrouter_dist.config import EdgeKnobs
from specrouter_dist.speculation.ending import StopIds
from specrouter_dist.speculation.messages import EdgeId, Proposals, TokenArray, Truth
from specrouter_dist.speculation.stage import Stage
from specrouter_dist.speculation.steps import Step
from tests.unit.speculation.drivers import run_calm
from tests.unit.speculation.network import Network
from tests.unit.speculation.scenarios import Scenario, scenarios
from tests.unit.speculation.test_protocol import NUM_EXAMPLES, PROTOCOL

Law = Callable[[int], int]
"""A model whose token depends on the one before alone."""


@settings(PROTOCOL, max_examples=NUM_EXAMPLES // 5)
@given(scenarios(), st.booleans())
def test_the_target_generates_though_every_message_is_lost(
    scenario: Scenario, attaches: bool
) -> None:
    network = Network(scenario)
    try:
        while attaches and any(network.control.values()):
            for link in [link for link, messages in network.control.items() if messages]:
                network.deliver_control(link)
        num_deadlines = run_calm(network, loses_all=True)
        assert network.target.stream.tolist() == scenario.truth
        assert num_deadlines <= 2 * len(scenario.members), "each stage gives up after two"
    finally:
        network.close()


def counts_up(token: int) -> int:
    return token + 1


def leaves_out_multiples_of_five(token: int) -> int:
    return token + 2 if (token + 1) % 5 == 0 else token + 1


def picks_of(law: Law, step: Step) -> TokenArray:
    picks = array("I", map(law, step.tokens[len(step.tokens) - step.num_picks :]))
    for _ in range(step.num_drafts):
        picks.append(law(picks[-1]))
    return picks


def run_in_lock_step(laws: list[Law], windows: list[int], end: int) -> list[Stage]:
    """A chain, drafter first, over links without delay, until the target has finished."""
    stages = [
        Stage([0], prompt_tokens=1, end=end, ending=StopIds([]), max_drafts=2 if i == 0 else 1)
        for i in range(len(laws))
    ]
    for i in reversed(range(len(windows))):
        knobs = EdgeKnobs(window=windows[i], burst=windows[i], patience=windows[i])
        truth = stages[i + 1].attach_upstream(EdgeId(1, 1, i), knobs)
        stages[i].attach_downstream(truth, end)
    while not stages[-1].finished:
        for stage, law in zip(stages, laws, strict=True):
            step = stage.next_step()
            if step is not None:
                stage.on_step_done(picks_of(law, step))
        for i, stage in enumerate(stages):
            for message in stage.flush():
                if isinstance(message, Proposals):
                    stages[i + 1].on_proposals(message)
                elif isinstance(message, Truth):
                    stages[i - 1].on_truth(message)
    return stages


def test_counts_of_two_stages_are_those_worked_out_by_hand() -> None:
    # Round 1 has no proposals: 1. Then 2 3 4 [5] -> 6; 7 8 9 [10] -> 11; of the request there is
    # room for three more and the bonus: 12 13 14 -> 16.
    target = run_in_lock_step([counts_up, leaves_out_multiples_of_five], [4], end=14)[-1]
    stream = target.tokens.slice(0, 14).tolist()
    assert stream == [0, 1, 2, 3, 4, 6, 7, 8, 9, 11, 12, 13, 14, 16]
    counts = target.counts
    assert (counts.rounds, counts.verify_rounds) == (4, 3)
    assert (counts.proposed, counts.accepted, counts.truncations) == (4 + 4 + 3, 3 + 3 + 3, 2)
    assert counts.histograms == {4: [0, 0, 0, 2, 0], 3: [0, 0, 0, 1]}


def test_an_intermediate_verifier_accumulates_until_the_target_has_a_whole_block() -> None:
    # The verifier in the middle agrees with the target in everything, so every block of eight
    # is accepted and brings a bonus: 1 + 9 + 9 tokens in three rounds.
    laws: list[Law] = [counts_up, leaves_out_multiples_of_five, leaves_out_multiples_of_five]
    target = run_in_lock_step(laws, [4, 8], end=20)[-1]
    counts = target.counts
    assert (counts.rounds, counts.proposed, counts.accepted) == (3, 16, 16)
    assert counts.histograms == {8: [0, 0, 0, 0, 0, 0, 0, 0, 2]}


@pytest.mark.parametrize("window", [1, 3, 8])
def test_a_drafter_that_is_never_right_costs_rounds_but_no_token(window: int) -> None:
    def never_right(token: int) -> int:
        return token + 3

    target = run_in_lock_step([never_right, counts_up], [window], end=20)[-1]
    assert target.tokens.slice(0, 20).tolist() == list(range(20))
    assert (target.counts.rounds, target.counts.accepted) == (19, 0)
