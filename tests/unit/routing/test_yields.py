"""Tokens per round, measured over predicted."""

import pytest

from specrouter_dist.routing.observations import Pace
from specrouter_dist.routing.state import Manner
from specrouter_dist.routing.traffic import GREEDY, SAMPLED, Traffic
from specrouter_dist.routing.yields import YieldTable

CHAIN = Manner(("small", "target"), is_ahead=True)
LOCK_STEP = Manner(("small", "target"))
MATHS, CODE = Traffic("greedy", "maths"), Traffic("greedy", "code")


def pace(num_rounds: int, tokens_per_round: float) -> Pace:
    return Pace(num_rounds, round(num_rounds * tokens_per_round), 1000.0 * num_rounds)


@pytest.fixture
def table() -> YieldTable:
    return YieldTable()


def test_what_was_never_used_yields_what_is_predicted(table: YieldTable) -> None:
    table.observe(GREEDY, CHAIN, 4.0, pace(1000, 3.0))
    assert table.ratio(GREEDY, LOCK_STEP) == 1.0
    assert table.ratio(SAMPLED, CHAIN) == 1.0


def test_much_evidence_is_believed_and_little_is_not(table: YieldTable) -> None:
    table.observe(GREEDY, CHAIN, 4.0, pace(5, 2.0))
    assert 0.97 < table.ratio(GREEDY, CHAIN) < 1.0
    table.observe(GREEDY, CHAIN, 4.0, pace(2000, 3.0))
    assert table.ratio(GREEDY, CHAIN) == pytest.approx(0.75, abs=0.02)


def test_hard_texts_with_their_many_rounds_do_not_outweigh_easy_ones(table: YieldTable) -> None:
    """Half of the tokens in rounds of 2, half in rounds of 6: a round yields 3."""
    for num_rounds, tokens in ((300, 2.0), (100, 6.0)):
        for _ in range(3):
            table.observe(GREEDY, CHAIN, 3.0, pace(num_rounds, tokens))
    assert table.ratio(GREEDY, CHAIN) == pytest.approx(1.0, abs=0.05)


def test_a_task_begins_as_its_regime_and_goes_its_own_way(table: YieldTable) -> None:
    table.observe(MATHS, CHAIN, 4.0, pace(2000, 3.0))
    assert table.ratio(CODE, CHAIN) == pytest.approx(0.75, abs=0.02)
    for _ in range(4):
        table.observe(CODE, CHAIN, 4.0, pace(2000, 4.4))
    assert table.ratio(CODE, CHAIN) == pytest.approx(1.1, abs=0.02)
    assert table.ratio(MATHS, CHAIN) < 0.85


def test_the_target_alone_yields_a_token(table: YieldTable) -> None:
    table.observe(GREEDY, Manner(("target",)), 1.0, pace(1000, 1.0))
    assert table.state() == ()


def test_a_choice_once_disqualified_is_tried_again(table: YieldTable) -> None:
    table.observe(GREEDY, CHAIN, 4.0, pace(2000, 3.0))
    table.forget()
    bad = table.ratio(GREEDY, CHAIN)
    table.forget()
    assert table.ratio(GREEDY, CHAIN) == bad, "nothing ran: nothing is forgotten"
    for _ in range(600):
        table.observe(GREEDY, LOCK_STEP, 4.0, pace(10, 4.0))
        table.forget()
    assert table.ratio(GREEDY, CHAIN) > 0.95


def test_an_absurd_measurement_corrects_by_no_more_than_half(table: YieldTable) -> None:
    table.observe(GREEDY, CHAIN, 1.0, pace(10_000, 16.0))
    assert table.ratio(GREEDY, CHAIN) == 1.5


def test_tasks_that_have_gone_leave_nothing(table: YieldTable) -> None:
    table.observe(MATHS, CHAIN, 4.0, pace(100, 3.0))
    table.keep({GREEDY})
    assert {known.traffic for known in table.state()} == {GREEDY}


def test_what_is_known_is_remembered(table: YieldTable) -> None:
    table.observe(MATHS, CHAIN, 4.0, pace(100, 3.0))
    other = YieldTable()
    other.restore(table.state())
    assert other.state() == table.state() != ()
    assert other.ratio(MATHS, CHAIN) == table.ratio(MATHS, CHAIN)
