"""Bounds on the total variation distance against dense laws."""

from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from specrouter_dist.routing.similarity import SPARSE_ROW_IDS, SparseRow, tv_bounds

ROUNDING = 1e-9
NUM_FREE = 2000


def total_variation(p: np.ndarray, q: np.ndarray) -> float:
    return float(np.abs(p - q).sum() / 2)


@st.composite
def laws(draw: st.DrawFn, num_ids: int) -> np.ndarray:
    """Often with ties and impossible ids."""
    weights = draw(st.lists(st.integers(0, 20), min_size=num_ids, max_size=num_ids).filter(any))
    row = np.array(weights, dtype=np.float64) ** draw(st.sampled_from([1, 3]))
    return row / row.sum()


@st.composite
def pairs(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    num_ids = draw(st.integers(2, 14))
    p = draw(laws(num_ids))
    q = draw(laws(num_ids))
    weight = draw(st.sampled_from([0.0, 0.2, 0.9, 1.0]))
    return p, weight * p + (1 - weight) * q


@given(pair=pairs(), num_listed=st.tuples(st.integers(1, 15), st.integers(1, 15)))
def test_the_true_distance_lies_between_the_bounds(
    pair: tuple[np.ndarray, np.ndarray], num_listed: tuple[int, int]
) -> None:
    p, q = pair
    one, other = SparseRow.of(p, num_listed[0]), SparseRow.of(q, num_listed[1])
    lower, upper = tv_bounds(one, other)
    truth = total_variation(p, q)
    assert 0.0 <= lower <= upper <= 1.0
    assert lower - ROUNDING <= truth <= upper + ROUNDING
    assert tv_bounds(other, one) == pytest.approx((lower, upper), abs=ROUNDING)
    if one.tail == other.tail == 0.0:
        assert lower == upper == pytest.approx(truth, abs=ROUNDING)


def put(law: np.ndarray, mass: float, caps: Iterable[tuple[int, float]]) -> float:
    """Spreads ``mass`` over ids up to their caps; returns what finds no room."""
    for i, cap in caps:
        law[i] += min(mass, cap)
        mass -= min(mass, cap)
    return mass


def dense(row: SparseRow) -> np.ndarray:
    """Its listed ids, below 14, and room for tails in two regions behind them."""
    law = np.zeros(14 + 2 * NUM_FREE)
    for i, value in row.top:
        law[i] = value
    return law


@given(pair=pairs(), num_listed=st.tuples(st.integers(1, 8), st.integers(1, 8)))
def test_some_laws_with_these_rows_meet_both_bounds(
    pair: tuple[np.ndarray, np.ndarray], num_listed: tuple[int, int]
) -> None:
    rows = [SparseRow.of(law, num) for law, num in zip(pair, num_listed, strict=True)]
    least = [row.top[-1][1] for row in rows]
    first, second = range(14, 14 + NUM_FREE), range(14 + NUM_FREE, 14 + 2 * NUM_FREE)
    apart, together = [dense(row) for row in rows], [dense(row) for row in rows]
    for k, region in enumerate((first, second)):
        cap = least[k]
        left = [put(apart[k], rows[k].tail, ((i, cap) for i in region))]
        missed = [(i, min(v, cap)) for i, v in rows[1 - k].top if together[k][i] == 0.0]
        rest = put(together[k], rows[k].tail, missed)
        # Fine enough that both tails fill the same ids, the longer one a few more.
        rest = put(together[k], rest, ((i, min(least) / 100.0) for i in first))
        left.append(put(together[k], rest, ((i, cap) for i in second)))
        assert max(left) < ROUNDING
    lower, upper = tv_bounds(*rows)
    assert total_variation(*apart) == pytest.approx(upper, abs=ROUNDING)
    assert total_variation(*together) == pytest.approx(lower, abs=ROUNDING)


def test_a_row_lists_the_likeliest_ids_and_the_mass_of_the_others() -> None:
    law = np.array([0.1, 0.4, 0.1, 0.0, 0.4])
    assert SparseRow.of(law, 3) == SparseRow(((1, 0.4), (4, 0.4), (0, 0.1)), 0.1)
    assert SparseRow.of(law) == SparseRow(((1, 0.4), (4, 0.4), (0, 0.1), (2, 0.1)), 0.0)
    flat = SparseRow.of(np.full(100, 0.01))
    assert [i for i, _ in flat.top] == list(range(SPARSE_ROW_IDS))
    assert flat.tail == pytest.approx(0.36)


def test_point_masses_agree_or_do_not() -> None:
    one, other = SparseRow(((5, 1.0),), 0.0), SparseRow(((6, 1.0),), 0.0)
    assert tv_bounds(one, one) == (0.0, 0.0)
    assert tv_bounds(one, other) == (1.0, 1.0)


def test_a_tail_reaches_no_further_than_the_least_listed_probability() -> None:
    one = SparseRow(((1, 0.6), (2, 0.4)), 0.0)
    other = SparseRow(((1, 0.5), (3, 0.1)), 0.4)
    assert tv_bounds(one, other) == pytest.approx((0.4, 0.5))
