import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from specrouter_dist.speculation.noise import (
    MASK64,
    GumbelRows,
    derive_seed,
    gumbel_from_bits,
    gumbel_row,
    mix64,
    row_key,
)

SEEDS = st.integers(0, MASK64)
POSITIONS = st.integers(0, 2**63 - 1)


def one_value(seed: int, position: int, token: int) -> np.float32:
    """The definition in Python integers and libm."""
    bits = mix64((row_key(seed, position) + token * 0x9E3779B97F4A7C15) & MASK64)
    uniform = ((bits >> 12) + 0.5) * 2.0**-52
    return np.float32(-math.log(-math.log(uniform)))


def normal_quantile_of_chi_square(statistic: float, degrees: int) -> float:
    """Wilson and Hilferty's approximation: a standard normal for a true hypothesis."""
    variance = 2.0 / (9.0 * degrees)
    return float(((statistic / degrees) ** (1.0 / 3.0) - 1.0 + variance) / math.sqrt(variance))


def assert_uniform(samples: np.ndarray, num_bins: int = 256) -> None:
    counts = np.bincount((samples * num_bins).astype(int), minlength=num_bins)
    expected = samples.size / num_bins
    statistic = float(((counts - expected) ** 2 / expected).sum())
    assert abs(normal_quantile_of_chi_square(statistic, num_bins - 1)) < 4.5


def to_uniform(gumbel: np.ndarray) -> np.ndarray:
    return np.exp(-np.exp(-gumbel.astype(np.float64)))


def test_values_never_change() -> None:
    assert row_key(0, 0) == 0x48218226FF3CD4BF
    assert row_key(MASK64, 2**63 - 1) == 0xC2594F8544D21EAF
    assert derive_seed(42, 1, 0) == 0x3471D466E8444191
    assert derive_seed(42, 0, 1) == 0xE7908797D10FC6FA
    rows = [gumbel_row(0, 0, 4), gumbel_row(2**63 + 12345, 1000, 3)]
    rows.append(gumbel_row(MASK64, 2**40, 100_003)[-2:])
    assert [row.view(np.uint32).tolist() for row in rows] == [
        [0xBEEEBB67, 0xBDA63BF3, 0xBE8B40DD, 0xBE87B9D5],
        [0xBF4D765B, 0x3EE42852, 0xBF6D9EAE],
        [0xBEE302A4, 0x3F35C00C],
    ]


@given(SEEDS, POSITIONS, st.integers(1, 70))
def test_a_row_is_its_definition_and_does_not_depend_on_the_vocabulary(
    seed: int, position: int, num_ids: int
) -> None:
    row = gumbel_row(seed, position, num_ids)
    np.testing.assert_array_equal(row, [one_value(seed, position, v) for v in range(num_ids)])


@pytest.mark.parametrize("num_ids", [1, 7, 8192, 8193, 20_000])
def test_a_block_holds_the_rows_of_its_positions(num_ids: int) -> None:
    block = np.empty((5, num_ids), dtype=np.float32)
    maker = GumbelRows(num_ids, 5)
    maker.fill(block, 3, 1_000_000)
    maker.fill(block, 2**64 - 7, 40)
    for row in range(5):
        np.testing.assert_array_equal(block[row], gumbel_row(2**64 - 7, 40 + row, num_ids))


def test_extreme_bits_give_finite_values() -> None:
    bits = np.array([0, 1, MASK64 - 1, MASK64, 1 << 63, (1 << 63) - 1], dtype=np.uint64)
    out = np.empty(bits.size, dtype=np.float32)
    gumbel_from_bits(bits, out)
    assert np.isfinite(out).all()
    assert out.min() == out[0] == np.float32(-math.log(53 * math.log(2)))
    assert out.max() == out[3] == np.float32(-math.log(-math.log1p(-(2.0**-53))))
    assert abs(float(out[4]) - -math.log(math.log(2))) < 1e-6


def test_the_law_along_each_axis_is_gumbel() -> None:
    along_ids = gumbel_row(1, 2, 200_000)
    along_positions = np.empty((40_000, 3), dtype=np.float32)
    GumbelRows(3, 40_000).fill(along_positions, 5, 0)
    along_seeds = np.array([gumbel_row(seed, 9, 2)[1] for seed in range(5_000)])
    for samples in (along_ids, along_positions[:, 2], along_seeds):
        assert_uniform(to_uniform(samples))
    ordered = np.sort(to_uniform(along_ids))
    steps = np.arange(1, ordered.size + 1) / ordered.size
    assert np.abs(ordered - steps).max() < 2.0 / math.sqrt(ordered.size), "Kolmogorov-Smirnov"


@pytest.mark.parametrize("lag", [(0, 1), (1, 0), (1, 1), (0, 2), (2, 0), (64, 0), (0, 1024)])
def test_neighbours_are_independent(lag: tuple[int, int]) -> None:
    block = np.empty((160, 2048), dtype=np.float32)
    GumbelRows(2048, 160).fill(block, 17, 0)
    uniform = to_uniform(block)
    first = uniform[: 160 - lag[0], : 2048 - lag[1]].ravel()
    second = uniform[lag[0] :, lag[1] :].ravel()
    pairs = (np.floor(first * 16) * 16 + np.floor(second * 16) + 0.5) / 256
    assert_uniform(pairs)


def test_neighbouring_seeds_are_independent() -> None:
    first, second = (to_uniform(gumbel_row(seed, 3, 100_000)) for seed in (7, 8))
    assert_uniform((np.floor(first * 16) * 16 + np.floor(second * 16) + 0.5) / 256)


def test_gumbel_max_draws_follow_the_softmax() -> None:
    logits = np.linspace(0.0, 4.0, 12)
    probabilities = np.exp(logits) / np.exp(logits).sum()
    noise = np.empty((30_000, 12), dtype=np.float32)
    GumbelRows(12, 30_000).fill(noise, 23, 0)
    counts = np.bincount((logits + noise).argmax(axis=1), minlength=12)
    expected = probabilities * 30_000
    statistic = float(((counts - expected) ** 2 / expected).sum())
    assert abs(normal_quantile_of_chi_square(statistic, 11)) < 4.5


def test_the_first_choice_of_the_first_prompt_keeps_the_seed_and_the_others_differ() -> None:
    assert derive_seed(99, 0, 0) == 99
    seeds = {derive_seed(s, c, p) for s in (0, 1, MASK64) for c in range(40) for p in range(40)}
    assert len(seeds) == 3 * 40 * 40
    assert all(0 <= seed <= MASK64 for seed in seeds)
