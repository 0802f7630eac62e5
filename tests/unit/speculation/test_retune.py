"""Other knobs on an edge that goes on."""

from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from specrouter_dist.config import EdgeKnobs
from specrouter_dist.speculation.messages import Truth
from tests.unit.speculation.drivers import deliver_all_control, run_calm
from tests.unit.speculation.handwritten import (
    LOCK_STEP,
    middle,
    proposals,
    queue_of,
    step,
    truth,
    verifier,
)
from tests.unit.speculation.network import Network
from tests.unit.speculation.scenarios import Scenario, scenarios
from tests.unit.speculation.test_protocol import NUM_EXAMPLES, PROTOCOL

SHORT = EdgeKnobs(window=2, burst=2, patience=2)
LONG = EdgeKnobs(window=6, burst=6, patience=6)
RETUNES = st.builds(
    lambda seed: Random(seed).choices((None, None, None, *range(8)), k=200), st.integers(0, 2**32)
)
"""Expanded from a seed: lists that Hypothesis draws one by one are mostly short."""


def test_what_is_queued_stays_and_is_used() -> None:
    stage = verifier()
    stage.on_proposals(proposals([1, 2, 3, 4, 5], 3, version=2))
    assert stage.next_step() is None, "two are fewer than four"
    stage.retune_upstream(SHORT)
    assert queue_of(stage) == [4, 5]
    assert step(stage, 4, 5, 6) == [4, 5, 6]


def test_a_wider_window_is_told_at_once() -> None:
    stage = verifier()
    stage.on_proposals(proposals([1, 2, 3, 4, 5, 6, 7], 3, version=2))
    assert stage.flush() == []
    stage.retune_upstream(LONG)
    [message] = stage.flush()
    assert isinstance(message, Truth)
    assert (message.limit, message.tokens.tolist()) == (3 + LONG.window, [3])
    assert stage.next_step() is None, "it waits for six now"


def test_a_narrower_one_takes_nothing_back_and_costs_no_message() -> None:
    stage = verifier()
    stage.retune_upstream(SHORT)
    assert stage.flush() == []
    stage.on_proposals(proposals([1, 2, 3, 4, 5, 6, 7], 3, version=2))
    assert queue_of(stage) == [4, 5, 6, 7], "as the old limit allows"
    assert step(stage, 4, 5, 6) == [4, 5, 6]
    [message] = stage.flush()
    assert isinstance(message, Truth)
    assert message.limit == 6 + SHORT.window
    stage = verifier()
    stage.retune_upstream(SHORT)
    stage.on_deadline()
    assert step(stage, 4) == [4]
    [message] = stage.flush()
    assert isinstance(message, Truth)
    assert message.limit == 3 + LOCK_STEP.window, "which has been given"


def test_a_cut_takes_back_what_the_narrower_window_does_not_allow() -> None:
    stage = middle()
    for pick in (4, 5, 6):
        step(stage, pick)
    stage.flush()
    stage.retune_upstream(SHORT)
    stage.on_truth(truth(2, 3, [8], limit=20))
    [message] = [m for m in stage.flush() if isinstance(m, Truth)]
    assert message.limit == 4 + SHORT.window


def test_own_text_is_looked_at_from_here_on() -> None:
    stage = verifier(EdgeKnobs(window=4, burst=4, patience=4))
    stage.on_deadline()
    assert step(stage, 1) == [1]
    assert stage.next_step() is None
    stage.retune_upstream(EdgeKnobs(window=4, burst=4, patience=4, match_tokens=1))
    started = stage.next_step()
    assert started is not None and started.from_own_text
    assert started.tokens.tolist() == [1, 2, 3, 1]


@settings(PROTOCOL, max_examples=NUM_EXAMPLES // 5)
@given(scenarios(), RETUNES)
def test_nobody_waits_in_vain_because_knobs_change(
    scenario: Scenario, retunes: list[int | None]
) -> None:
    network = Network(scenario)
    try:
        deliver_all_control(network)
        assert run_calm(network, retunes=retunes) == 0
        assert network.target.stream.tolist() == scenario.truth
    finally:
        network.close()
