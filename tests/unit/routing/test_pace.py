"""Measured over predicted round times: what is the machine's and what is a chain's own."""

import pytest

from specrouter_dist.routing.observations import Pace
from specrouter_dist.routing.pace import PaceTable
from specrouter_dist.routing.state import Manner

USED, OTHER, ALONE = Manner(("small", "target")), Manner(("medium", "target")), Manner(("target",))
OTHER_AHEAD = OTHER._replace(is_ahead=True)


def observe(table: PaceTable, manner: Manner, ratio: float, times: int = 20) -> None:
    for _ in range(times):
        table.observe(manner, 1, 1000.0, Pace(20, 60, 20 * 1000.0 * ratio))


@pytest.fixture
def table() -> PaceTable:
    return PaceTable()


def test_what_is_measured_of_a_chain_corrects_it(table: PaceTable) -> None:
    assert table.ratio(USED, 1) == 1.0
    observe(table, USED, 1.3)
    assert table.ratio(USED, 1) == pytest.approx(1.3, rel=0.02)
    assert table.ratio(USED, 4) == 1.0


def test_a_chain_never_used_shares_what_the_machine_does(table: PaceTable) -> None:
    observe(table, USED, 1.3)
    assert 1.1 < table.ratio(OTHER, 1) < 1.3


def test_drafting_ahead_has_a_part_of_its_own(table: PaceTable) -> None:
    for _ in range(5):
        observe(table, OTHER, 1.2)
        observe(table, OTHER_AHEAD, 0.9)
    assert table.ratio(OTHER, 1) == pytest.approx(1.2, rel=0.05)
    assert table.ratio(OTHER_AHEAD, 1) == pytest.approx(0.9, rel=0.05)


def test_until_it_is_measured_it_is_as_its_chain(table: PaceTable) -> None:
    observe(table, OTHER, 1.2)
    assert table.ratio(OTHER_AHEAD, 1) == table.ratio(OTHER, 1) > 1.15


def test_when_the_machine_slows_down_all_chains_keep_their_order(table: PaceTable) -> None:
    for _ in range(5):
        observe(table, USED, 1.0)
        observe(table, OTHER, 1.1)
    observe(table, USED, 1.4)
    assert table.ratio(USED, 1) == pytest.approx(1.4, rel=0.03)
    assert table.ratio(OTHER, 1) > 1.03 * table.ratio(USED, 1)


def test_a_chain_that_is_slow_by_itself_is_told_from_a_slow_machine(table: PaceTable) -> None:
    for _ in range(5):
        observe(table, USED, 1.0)
        observe(table, OTHER, 1.3)
    assert table.ratio(OTHER, 1) / table.ratio(USED, 1) == pytest.approx(1.3, rel=0.06)


def test_the_target_alone_has_no_part_in_it(table: PaceTable) -> None:
    observe(table, USED, 1.4)
    assert table.ratio(ALONE, 1) == 1.0
    observe(table, ALONE, 1.1)
    assert table.ratio(ALONE, 1) == pytest.approx(1.1, rel=0.02)


def test_one_observation_is_not_believed_without_bounds(table: PaceTable) -> None:
    observe(table, USED, 50.0, times=200)
    assert table.ratio(USED, 1) == pytest.approx(1.5, rel=0.01)


def test_what_is_not_used_fades(table: PaceTable) -> None:
    def own() -> float:
        return {known.manner: known.log_ratio for known in table.state()}.get(OTHER, 0.0)

    for _ in range(5):
        observe(table, USED, 1.0)
        observe(table, OTHER, 1.3)
    table.forget(set())
    before = own()
    for _ in range(30):
        observe(table, USED, 1.0, times=1)
        table.forget(set())
    after = own()
    assert 0.0 < after < 0.9 * before
    table.forget(set())
    assert own() == after, "nobody used that load: there is nothing to try again"


def test_what_a_slow_member_did_to_its_chain_is_forgotten_when_it_is_fast_again(
    table: PaceTable,
) -> None:
    observe(table, USED, 1.0)
    observe(table, OTHER, 1.1)
    before = table.state()
    table.on_change("medium", 5.0)
    observe(table, OTHER, 1.5)
    table.on_change("medium", 1.0)
    assert table.state() != before
    table.on_change("medium", 0.2)
    assert [known for known in table.state() if known.manner == OTHER] == [
        known for known in before if known.manner == OTHER
    ]


def test_nor_is_it_held_against_a_member_of_whom_nothing_is_known_any_more(
    table: PaceTable,
) -> None:
    observe(table, OTHER, 1.0)
    before = table.ratio(OTHER, 1)
    table.on_change("medium", 5.0)
    observe(table, OTHER, 1.5)
    slow = table.ratio(OTHER, 1)
    table.forget({"medium"})
    assert before < table.ratio(OTHER, 1) < slow


def test_a_chain_used_for_long_is_still_found_to_have_changed(table: PaceTable) -> None:
    observe(table, ALONE, 1.0, times=10_000)
    assert min(known.variance for known in table.state()) > 1e-5, "snapshots refuse less than 1e-6"
    observe(table, ALONE, 1.3, times=100)
    assert table.ratio(ALONE, 1) == pytest.approx(1.3, rel=0.02)
