import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from specrouter_dist.engine.noise_torch import NoiseSource, TorchGumbelRows
from specrouter_dist.speculation.noise import MASK64, gumbel_row

CPU = torch.device("cpu")
SEEDS = st.one_of(st.integers(0, MASK64), st.sampled_from([0, 1, 2**63 - 1, 2**63, MASK64]))
POSITIONS = st.one_of(st.integers(0, 4096), st.integers(0, 2**62))


def expected(seed: int, first: int, num_rows: int, num_ids: int) -> torch.Tensor:
    rows = [gumbel_row(seed, first + row, num_ids) for row in range(num_rows)]
    return torch.from_numpy(np.stack(rows))


@settings(max_examples=60, deadline=None)
@given(SEEDS, POSITIONS, st.integers(1, 5), st.integers(1, 3000))
def test_torch_and_numpy_rows_are_bit_equal(
    seed: int, first: int, num_rows: int, num_ids: int
) -> None:
    reference = expected(seed, first, num_rows, num_ids)
    out = torch.empty(num_rows, num_ids)
    TorchGumbelRows(num_ids, num_rows, CPU).fill(out, seed, first)
    assert torch.equal(out, reference)


def test_torch_and_numpy_agree_on_a_million_values() -> None:
    out = torch.empty(32, 32768)
    TorchGumbelRows(32768, 32, CPU).fill(out, MASK64 - 5, 77)
    assert torch.equal(out, expected(MASK64 - 5, 77, 32, 32768))


@settings(max_examples=40, deadline=None)
@given(
    num_ids=st.sampled_from([3, 4096, 20_000]),
    requests=st.lists(st.tuples(st.integers(0, 60), st.integers(0, 40)), max_size=6),
)
def test_a_session_adds_the_noise_of_its_positions_in_any_order(
    num_ids: int, requests: list[tuple[int, int]]
) -> None:
    noise = NoiseSource(num_ids, 4, CPU).session(2**63 + 9)
    for first, num_rows in requests:
        scores = torch.ones(num_rows, num_ids)
        noise.add_to(scores.numpy(), first)
        if num_rows:
            assert torch.equal(scores, 1 + expected(2**63 + 9, first, num_rows, num_ids))


def test_sessions_of_one_source_do_not_share_rows() -> None:
    source = NoiseSource(50, 2, CPU)
    one, other = source.session(1), source.session(2)
    for _ in range(2):
        for noise, seed in ((one, 1), (other, 2)):
            scores = torch.zeros(3, 50)
            noise.add_to(scores.numpy(), 6)
            assert torch.equal(scores, expected(seed, 6, 3, 50))


def test_blocks_of_a_session_that_is_over_are_another_ones() -> None:
    source = NoiseSource(50, 2, CPU)
    first = source.session(1)
    first.add_to(np.zeros((20, 50), np.float32), 0)
    shared = first
    blocks = {id(block) for block in first._blocks}
    del first
    assert not {id(block) for block in source.session(2)._blocks} & blocks
    del shared
    ours = [source.session(seed) for seed in (3, 4)]
    assert blocks in [{id(block) for block in noise._blocks} for noise in ours]
    for noise, seed in zip(ours, (3, 4), strict=True):
        scores = torch.zeros(3, 50)
        noise.add_to(scores.numpy(), 6)
        assert torch.equal(scores, expected(seed, 6, 3, 50))


@pytest.mark.parametrize(
    ("num_ids", "max_sessions"), [(16, 64), (4096, 64), (32_000, 64), (152_000, 64), (256_000, 512)]
)
def test_kept_rows_are_bounded(num_ids: int, max_sessions: int) -> None:
    source = NoiseSource(num_ids, max_sessions, CPU)
    kept_rows = source.block_rows * source.num_blocks
    assert source.num_blocks >= 2
    assert kept_rows == 2 or kept_rows * num_ids * 4 * max_sessions <= 256 << 20
    assert source.block_rows * num_ids <= max(1 << 15, num_ids)
