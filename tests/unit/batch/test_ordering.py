"""Whatever the order in which items come, they leave in that of their indices."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from specrouter_dist.batch.ordering import ReorderBuffer


@given(st.data())
def test_items_leave_in_order_and_as_soon_as_they_can(data: st.DataObject) -> None:
    start = data.draw(st.integers(0, 5))
    count = data.draw(st.integers(0, 20))
    arrivals = data.draw(st.permutations(range(start, start + count)))
    buffer: ReorderBuffer[int] = ReorderBuffer(start)
    left: list[int] = []
    for number, index in enumerate(arrivals, start=1):
        left += buffer.put(index, index)
        assert len(left) + len(buffer) == number
        come = set(arrivals[:number])
        gap = next(i for i in range(start, start + count + 1) if i not in come)
        assert left == list(range(start, gap))
    assert left == list(range(start, start + count))


@pytest.mark.parametrize("indices", [(1, 1), (0, 0)])
def test_no_item_comes_twice(indices: tuple[int, int]) -> None:
    buffer: ReorderBuffer[str] = ReorderBuffer()
    buffer.put(indices[0], "first")
    with pytest.raises(AssertionError, match="came twice"):
        buffer.put(indices[1], "again")
