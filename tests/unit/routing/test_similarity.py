"""Bounds on the total variation distance against dense laws, at any temperature."""

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from specrouter_dist.routing.similarity import (
    MAX_ROWS,
    SPARSE_ROW_IDS,
    Laws,
    Matched,
    SparseRows,
    sampled_positions,
)

ROUNDING = 1e-6
NUM_FREE = 2000


def total_variation(p: np.ndarray, q: np.ndarray) -> float:
    return float(np.abs(p - q).sum() / 2)


def tempered(law: np.ndarray, temperature: float, top_p: float = 1.0) -> np.ndarray:
    """The law that is drawn from."""
    powers = (law / law.max()) ** (1.0 / temperature)
    powers /= powers.sum()
    order = np.argsort(-powers, kind="stable")
    before = np.cumsum(powers[order]) - powers[order]
    powers[order[before >= top_p]] = 0.0
    return powers / powers.sum()


def tv_bounds(
    one: SparseRows, other: SparseRows, temperature: float = 1.0, top_p: float = 1.0
) -> tuple[float, float]:
    """Of the only position."""
    laws = [Laws.make(rows, temperature, top_p) for rows in (one, other)]
    lower, upper = Matched(one, other).tv_bounds(*laws)
    return float(lower[0]), float(upper[0])


def row_of(law: np.ndarray, num_ids: int = SPARSE_ROW_IDS) -> SparseRows:
    return SparseRows.of(law[None], num_ids)


@st.composite
def laws(draw: st.DrawFn, num_ids: int) -> np.ndarray:
    """Often with ties."""
    weights = draw(st.lists(st.integers(1, 20), min_size=num_ids, max_size=num_ids))
    row = np.array(weights, dtype=np.float64) ** draw(st.sampled_from([1, 3, 8]))
    return row / row.sum()


@st.composite
def pairs(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    num_ids = draw(st.integers(2, 14))
    p = draw(laws(num_ids))
    q = draw(laws(num_ids))
    weight = draw(st.sampled_from([0.0, 0.2, 0.9, 1.0]))
    return p, weight * p + (1 - weight) * q


@given(
    pair=pairs(),
    num_listed=st.tuples(st.integers(1, 15), st.integers(1, 15)),
    temperature=st.sampled_from([0.05, 0.3, 0.8, 1.0, 1.7]),
)
def test_the_true_distance_lies_between_the_bounds(
    pair: tuple[np.ndarray, np.ndarray], num_listed: tuple[int, int], temperature: float
) -> None:
    one, other = (row_of(law, num) for law, num in zip(pair, num_listed, strict=True))
    assert one.is_plausible and other.is_plausible
    lower, upper = tv_bounds(one, other, temperature)
    truth = total_variation(*(tempered(law, temperature) for law in pair))
    assert 0.0 <= lower <= upper <= 1.0
    assert lower - ROUNDING / temperature <= truth <= upper + ROUNDING / temperature
    assert tv_bounds(other, one, temperature) == pytest.approx((lower, upper), abs=ROUNDING)
    if one.tails[0] == other.tails[0] == 0.0:
        assert lower == upper


def put(law: np.ndarray, mass: float, caps: Iterable[tuple[int, float]]) -> float:
    """Spreads ``mass`` over ids up to their caps; returns what finds no room."""
    for i, cap in caps:
        law[i] += min(mass, cap)
        mass -= min(mass, cap)
    return mass


def dense(rows: SparseRows) -> np.ndarray:
    """Its listed ids, below 14, and room for tails in two regions behind them."""
    law = np.zeros(14 + 2 * NUM_FREE)
    law[rows.ids[0]] = np.exp(rows.logprobs[0].astype(np.float64))
    return law


@given(pair=pairs(), num_listed=st.tuples(st.integers(1, 8), st.integers(1, 8)))
def test_some_laws_with_these_rows_meet_both_bounds(
    pair: tuple[np.ndarray, np.ndarray], num_listed: tuple[int, int]
) -> None:
    rows = [
        replace(row_of(law, num), vocab_size=14 + 2 * NUM_FREE)
        for law, num in zip(pair, num_listed, strict=True)
    ]
    laws, tails = [dense(row) for row in rows], [row.tails[0] for row in rows]
    least = [law[law > 0.0].min() for law in laws]
    first, second = range(14, 14 + NUM_FREE), range(14 + NUM_FREE, 14 + 2 * NUM_FREE)
    apart, together = [law.copy() for law in laws], [law.copy() for law in laws]
    for k, region in enumerate((first, second)):
        cap, other = least[k], laws[1 - k]
        left = [put(apart[k], tails[k], ((i, cap) for i in region))]
        missed = [(i, min(other[i], cap)) for i in range(14) if other[i] and not laws[k][i]]
        rest = put(together[k], tails[k], missed)
        # Fine enough that both tails fill the same ids, the longer one a few more.
        rest = put(together[k], rest, ((i, min(least) / 100.0) for i in first))
        left.append(put(together[k], rest, ((i, cap) for i in second)))
        assert max(left) < ROUNDING
    lower, upper = tv_bounds(*rows)
    assert total_variation(*apart) == pytest.approx(upper, abs=ROUNDING)
    assert total_variation(*together) == pytest.approx(lower, abs=ROUNDING)


@given(pair=pairs(), temperature=st.sampled_from([0.3, 0.8, 1.0]))
def test_truncation_is_that_of_the_law_at_its_temperature(
    pair: tuple[np.ndarray, np.ndarray], temperature: float
) -> None:
    # Not where rounding decides what is kept.
    top_p = 0.9 + 1e-4 * np.pi
    lower, upper = tv_bounds(*(row_of(law) for law in pair), temperature, top_p)
    truth = total_variation(*(tempered(law, temperature, top_p) for law in pair))
    assert lower == upper == pytest.approx(truth, abs=10 * ROUNDING)


def test_what_is_not_listed_is_not_cut() -> None:
    flat = row_of(np.full(100, 0.01))
    whole, cut = Laws.make(flat, 1.0), Laws.make(flat, 1.0, 0.9)
    assert np.array_equal(cut.least, whole.least)
    assert cut.tails[0] == pytest.approx(0.36)


def test_rows_list_the_likeliest_ids_and_the_mass_of_the_others() -> None:
    law = np.array([0.1, 0.4, 0.1, 0.05, 0.35])
    rows = SparseRows.of(np.stack([law, law[::-1]]), 3)
    assert rows.ids.tolist() == [[1, 4, 0], [3, 0, 2]]
    assert np.exp(rows.logprobs[0]).tolist() == pytest.approx([0.4, 0.35, 0.1])
    assert rows.tails.tolist() == pytest.approx([0.15, 0.15])
    assert (len(rows), rows.vocab_size) == (2, 5)
    flat = row_of(np.full(100, 0.01))
    assert flat.ids[0].tolist() == list(range(SPARSE_ROW_IDS))
    assert flat.tails[0] == pytest.approx(0.36)
    both = SparseRows.joined([rows, rows])
    assert both.ids.tolist() == 2 * rows.ids.tolist()
    assert (len(both), both.vocab_size) == (4, 5)


def test_a_tail_reaches_no_further_than_the_least_listed_probability() -> None:
    one = row_of(np.array([0.6, 0.4]))
    other = SparseRows(
        np.array([[0, 2]], np.uint32),
        np.log(np.array([[0.5, 0.1]], np.float32)),
        np.array([0.4]),
        50,
    )
    assert tv_bounds(one, other) == pytest.approx((0.4, 0.5))


def test_sharper_laws_need_their_tails_less() -> None:
    law = np.arange(1.0, 201.0)
    one, other = row_of(law / law.sum()), row_of(law[::-1] ** 1.5 / (law**1.5).sum())
    gaps = [upper - lower for lower, upper in (tv_bounds(one, other, t) for t in (0.1, 0.3, 1.0))]
    assert gaps == sorted(gaps) and gaps[0] < gaps[2] / 4


@pytest.mark.parametrize("num_positions", [0, 1, 7, 8, 9, 15, 16, 64, 1000])
def test_positions_are_sampled_evenly(num_positions: int) -> None:
    positions = list(sampled_positions(num_positions))
    assert len(positions) == min(MAX_ROWS, num_positions)
    assert positions == sorted(set(positions))
    assert all(0 <= position < num_positions for position in positions)
    if num_positions >= MAX_ROWS:
        assert positions[-1] - positions[0] >= num_positions // 2 - 1


LAW = np.array([0.5, 0.3, 0.1, 0.06, 0.04])
GOOD = SparseRows.of(np.stack([LAW, LAW]), 3)


def with_logprob(value: float) -> np.ndarray:
    logprobs = GOOD.logprobs.copy()
    logprobs[1, 2] = value
    return logprobs


BAD = {
    "NaN": {"logprobs": with_logprob(np.nan)},
    "infinity": {"logprobs": with_logprob(-np.inf)},
    "a probability above one": {"logprobs": with_logprob(0.5)},
    "not sorted": {"logprobs": GOOD.logprobs[:, ::-1].copy()},
    "an id out of range": {"vocab_size": 3, "ids": GOOD.ids + 1},
    "an id twice": {"ids": np.zeros_like(GOOD.ids)},
    "a negative tail": {"tails": np.array([0.1, -0.1])},
    "a tail that is NaN": {"tails": np.array([0.1, np.nan])},
    "more than one in all": {"tails": np.array([0.1, 0.2])},
    "less than one in all": {"tails": np.array([0.1, 0.0])},
    "a tail that no ids can have": {"vocab_size": 3},
    "more ids than the vocabulary": {"vocab_size": 2},
    "rows that are missing": {"tails": GOOD.tails[:1]},
    "no rows": {"ids": GOOD.ids[:0], "logprobs": GOOD.logprobs[:0], "tails": GOOD.tails[:0]},
    "another type": {"ids": GOOD.ids.astype(np.int64)},
    "no array": {"tails": (0.1, 0.1)},
    "one dimension": {"ids": GOOD.ids[0], "logprobs": GOOD.logprobs[0], "tails": GOOD.tails[:1]},
    "a vocabulary of another type": {"vocab_size": 5.0},
    "too many rows": {
        "ids": np.tile(GOOD.ids, (5, 1)),
        "logprobs": np.tile(GOOD.logprobs, (5, 1)),
        "tails": np.tile(GOOD.tails, 5),
    },
}


@pytest.mark.parametrize("name", BAD)
def test_what_no_model_says_is_not_plausible(name: str) -> None:
    assert GOOD.is_plausible
    assert not replace(GOOD, **BAD[name]).is_plausible


def test_several_ways_of_drawing_are_what_each_is_alone() -> None:
    rng = np.random.default_rng(3)
    one, other = (SparseRows.of(rng.dirichlet(np.full(40, 0.2), 5), 30) for _ in range(2))
    ways = [(0.3, 1.0), (1.0, 1.0), (0.8, 0.9), (1.0, 0.3)]
    temperatures, top_ps = (np.array(values) for values in zip(*ways, strict=True))
    laws = [Laws.make(rows, temperatures, top_ps) for rows in (one, other)]
    lower, upper = Matched(one, other).tv_bounds(*laws)
    for row, way in enumerate(ways):
        alone = Matched(one, other).tv_bounds(*(Laws.make(rows, *way) for rows in (one, other)))
        assert np.stack((lower[row], upper[row])) == pytest.approx(np.stack(alone))
