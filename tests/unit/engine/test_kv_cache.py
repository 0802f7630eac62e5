"""Pages: who holds which, and that placement changes nothing of what is read."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from specrouter_dist.engine.kv_cache import (
    PAGE_TOKENS,
    KvCache,
    PageAllocator,
    PageTable,
    pages_for,
)
from specrouter_dist.errors import NoRoomError

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("num_tokens", "expected"), [(0, 0), (1, 1), (64, 1), (65, 2), (128, 2), (129, 3)]
)
def test_positions_are_rounded_up_to_pages(num_tokens: int, expected: int) -> None:
    assert PAGE_TOKENS == 64
    assert pages_for(num_tokens) == expected


def test_pages_come_in_runs_while_there_is_one() -> None:
    allocator = PageAllocator(8)
    held = [allocator.take(1) for _ in range(8)]
    for i in (1, 3, 4, 5, 7):
        allocator.drop(held[i])
    assert allocator.take(3) == [3, 4, 5]
    assert allocator.take(2) == [1, 7], "no run is left, so they are scattered"
    with pytest.raises(NoRoomError, match="1 pages wanted, 0 free"):
        allocator.take(1)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["take", "share", "drop"]), st.integers(0, 9))))
def test_no_page_is_handed_out_twice_and_none_is_lost(steps: list[tuple[str, int]]) -> None:
    allocator = PageAllocator(12)
    holders: list[list[int]] = []
    for step, number in steps:
        if step == "take":
            in_use = {page for pages in holders for page in pages}
            if number > 12 - len(in_use):
                with pytest.raises(NoRoomError):
                    allocator.take(number)
                continue
            pages = allocator.take(number)
            assert len(set(pages)) == number
            assert not in_use & set(pages)
            holders.append(pages)
        elif holders:
            pages = holders[number % len(holders)]
            if step == "share":
                allocator.share(pages)
                holders.append(list(pages))
            else:
                allocator.drop(pages)
                holders.remove(pages)
    in_use = {page for pages in holders for page in pages}
    assert allocator.num_free == 12 - len(in_use)
    for page in range(12):
        assert allocator.users(page) == sum(pages.count(page) for pages in holders)


def filled_cache() -> KvCache:
    cache = KvCache(3, 6, 2, 4, torch.float32, CPU)
    for layer, rows in enumerate(cache.layers):
        rows.copy_(torch.arange(rows.numel()).view(rows.shape) + 10_000 * layer)
    return cache


def test_a_run_is_read_without_copying() -> None:
    cache = filled_cache()
    table = PageTable([2, 3], CPU)
    assert table.first_row == 128
    views = cache.run_views(128, 0, 1, 128)
    for layer, (keys, values) in enumerate(views):
        rows = cache.layers[layer]
        assert keys.shape == values.shape == (1, 2, 128, 4)
        assert keys.untyped_storage().data_ptr() == rows.untyped_storage().data_ptr()
        assert torch.equal(keys[0, 1, 5], rows[133, 4:8])
        assert torch.equal(values[0, 0, 127], rows[255, 8:12])
    assert cache.run_views(128, 0, 1, 128) is views
    assert cache.run_views(128, 0, 1, 64)[0][0].shape == (1, 2, 64, 4)


def test_runs_at_equal_distances_are_read_at_once() -> None:
    cache = filled_cache()
    together = cache.run_views(64, 128, 3, 64)
    for i, first_row in enumerate((64, 192, 320)):
        alone = cache.run_views(first_row, 0, 1, 64)
        for both, one in zip(together, alone, strict=True):
            assert all(torch.equal(a[i], b[0]) for a, b in zip(both, one, strict=True))


def test_scattered_pages_are_gathered_into_the_same_layout() -> None:
    cache = filled_cache()
    run = cache.run_views(128, 0, 1, 128)
    table = PageTable([5, 0], CPU)
    assert table.first_row is None
    assert table.index is not None
    for source, target in ((2, 5), (3, 0)):
        cache.copy_page(source, target)
    for layer in range(3):
        for gathered, viewed in zip(cache.gather(layer, table.index), run[layer], strict=True):
            assert torch.equal(gathered, viewed)
            assert gathered.stride()[1:] == viewed.stride()[1:]
    assert table.row(3) == 5 * 64 + 3
    assert table.row(70) == 6
