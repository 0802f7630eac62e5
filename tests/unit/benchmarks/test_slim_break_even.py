"""From which agreement on a slim level pays: the theory, and the pool that measures it."""

from pathlib import Path

import pytest

from benchmarks.slim_break_even import SHAPES, Setting, closed_form, crossing
from specrouter_dist.pools.checks import check_pool
from specrouter_dist.pools.loading import load_pool, resolve_directories, slim_members


@pytest.mark.parametrize(("kept", "least", "most"), [(0.55, 0.90, 0.95), (0.4, 0.85, 0.90)])
def test_the_closed_form_is_where_simulations_have_found_it(
    kept: float, least: float, most: float
) -> None:
    """With a drafter of a twentieth that agrees 0.6: at 45 % skipped it loses at 0.90 and wins at
    0.95, at 60 % it wins at 0.90."""
    assert least < closed_form(0.05, kept, 1.0, 0.6) < most


def test_what_costs_nothing_pays_and_what_costs_a_target_does_not() -> None:
    assert closed_form(0.05, 0.001, 1.0, 0.6) < 0.62
    assert closed_form(0.05, 1.0, 1.0, 0.6) > 0.99


def test_the_crossing_is_behind_the_last_loss() -> None:
    agreements = (0.7, 0.8, 0.9, 0.95)
    assert crossing(agreements, (0.5, 0.9, 1.1, 1.2)) == pytest.approx(0.85)
    assert crossing(agreements, (1.1, 0.9, 1.1, 1.2)) == pytest.approx(0.85)
    assert crossing(agreements, (1.1, 1.2, 1.3, 1.4)) == 0.7
    assert crossing(agreements, (0.5, 0.6, 1.3, 0.99)) is None


@pytest.mark.parametrize("skip", [0.45, 0.75])
def test_the_pool_can_run(tmp_path: Path, skip: float) -> None:
    setting = Setting("cpu", *SHAPES["cpu"], 0.6, (0.7, 0.8, 0.9, 0.95, 0.98))
    pool = resolve_directories(load_pool(setting.write_pool(tmp_path / "pool.yaml", skip)))
    check_pool(pool)
    assert {len(member.mask) for member in slim_members(pool)} == {round(20 * skip)}
