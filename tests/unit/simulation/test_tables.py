"""The table of drafting ahead: its points are simulated, what is between them interpolated."""

import pytest

from specrouter_dist.routing.async_cost import TABLE_FILE, AsyncCost
from specrouter_dist.simulation.tables import AGREEMENT, DRAFT_TOKENS, HOP, UPSTREAM, ratio


@pytest.fixture(scope="module")
def table() -> AsyncCost:
    return AsyncCost.load()


def test_the_file_is_small_and_has_the_grid(table: AsyncCost) -> None:
    assert TABLE_FILE.stat().st_size < 100 * 1024
    assert (table.agreement, table.upstream) == (AGREEMENT, UPSTREAM)
    assert (table.hop, table.draft_tokens) == (HOP, DRAFT_TOKENS)


@pytest.mark.parametrize(
    ("point", "shared"),
    [((0.8, 0.1, 0.05, 4), False), ((0.97, 0.4, 0.0, 8), True), ((0.3, 0.02, 0.4, 16), False)],
)
def test_points_are_what_the_simulator_says(
    table: AsyncCost, point: tuple[float, float, float, int], shared: bool
) -> None:
    simulated = ratio(*point, shared=shared)
    assert table.ratio(*point, shared=shared) == pytest.approx(simulated, abs=6e-4)


def test_between_points_it_is_linear_and_beyond_them_constant(table: AsyncCost) -> None:
    low, high = table.ratio(0.8, 0.1, 0.05, 4), table.ratio(0.9, 0.1, 0.05, 4)
    assert table.ratio(0.825, 0.1, 0.05, 4) == pytest.approx(0.75 * low + 0.25 * high)
    assert table.ratio(0.97, 0.8, 0.4, 16) == table.ratio(0.999, 9.0, 9.0, 99)
    corners = [table.ratio(a, u, 0.05, 4) for a in (0.8, 0.9) for u in (0.1, 0.2)]
    assert table.ratio(0.85, 0.15, 0.05, 4) == pytest.approx(sum(corners) / 4)


def test_what_is_known_of_drafting_ahead(table: AsyncCost) -> None:
    # Always right: all of the drafting is hidden. A lot of it, never right: no gain.
    assert table.ratio(0.97, 0.1, 0.0, 8) < 0.7
    assert table.ratio(0.3, 0.1, 0.0, 8) > 0.98
    # What takes turns on one device cannot be done at the same time.
    assert table.ratio(0.97, 0.1, 0.0, 8, shared=True) > 0.99
