"""The table of drafting ahead: its points are simulated, what is between them interpolated."""

import numpy as np
import pytest

from specrouter_dist.routing.async_cost import TABLE_FILE, AsyncCost, Floats
from specrouter_dist.simulation.tables import AGREEMENT, DRAFT_TOKENS, HOP, UPSTREAM, ratio


def at(table: AsyncCost, agreement: float, upstream: float, hop: float) -> Floats:
    (ratios,) = table.at(agreement, np.array([upstream]), np.array([hop]))
    return ratios  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def table() -> AsyncCost:
    return AsyncCost.load(max(DRAFT_TOKENS))


def test_the_file_is_small_and_has_the_grid(table: AsyncCost) -> None:
    assert TABLE_FILE.stat().st_size < 100 * 1024
    assert tuple(table.agreement) == AGREEMENT
    assert (tuple(table.upstream), tuple(table.hop)) == (UPSTREAM, HOP)
    assert table.ratios.shape == (len(AGREEMENT), len(UPSTREAM), len(HOP), max(DRAFT_TOKENS))


@pytest.mark.parametrize("point", [(0.8, 0.1, 0.05, 4), (0.97, 0.4, 0.0, 8), (0.3, 0.02, 0.4, 16)])
def test_points_are_what_the_simulator_says(
    table: AsyncCost, point: tuple[float, float, float, int]
) -> None:
    *where, num_draft_tokens = point
    assert at(table, *where)[num_draft_tokens - 1] == pytest.approx(ratio(*point), abs=6e-4)


def test_between_points_it_is_linear_and_beyond_them_constant(table: AsyncCost) -> None:
    low, high = at(table, 0.8, 0.1, 0.05), at(table, 0.9, 0.1, 0.05)
    assert at(table, 0.825, 0.1, 0.05) == pytest.approx(0.75 * low + 0.25 * high)
    assert at(table, 0.97, 0.8, 0.4) == pytest.approx(at(table, 0.999, 9.0, 9.0))
    corners = [at(table, a, u, 0.05) for a in (0.8, 0.9) for u in (0.1, 0.2)]
    assert at(table, 0.85, 0.15, 0.05) == pytest.approx(sum(corners) / 4)
    assert low[4] == pytest.approx((low[3] + low[5]) / 2), "5 lies between 4 and 6"


def test_what_is_known_of_drafting_ahead(table: AsyncCost) -> None:
    # Nearly always right: all of the drafting is hidden. A lot of it, seldom right: no gain.
    assert at(table, 0.97, 0.1, 0.0)[7] < 0.7
    assert at(table, 0.3, 0.1, 0.0)[7] > 0.98


def test_cases_are_looked_up_side_by_side(table: AsyncCost) -> None:
    both = table.at(0.85, np.array([0.15, 0.7]), np.array([0.3, 0.01]))
    assert both[0] == pytest.approx(at(table, 0.85, 0.15, 0.3))
    assert both[1] == pytest.approx(at(table, 0.85, 0.7, 0.01))
