"""Shapes that make a row's bits independent of what else is computed with it.

A pick must be a function of the session's tokens, whatever block they were fed in and whatever
shares the forward. Measured on CPU (torch 2.13, oneDNN and MKL, 1 and 2 threads), float32 and
bfloat16, this is what it takes:

- **Linear layers** over pre-packed weights round a row alike at every number of rows from 4 on
  (at 1 row, with 1,000 inputs or more, they do not). So there are never fewer than
  :data:`LEAST_ROWS`; numbers of rows are rounded up to :func:`padded_rows` to keep the number of
  shapes, each of which costs a compilation, small.
- **Attention** rounds a row alike at every multiple of 4 query rows, but not at another length of
  keys, masked or not. So the key length is a function of the row's own position,
  ``PAGE_TOKENS * (position // PAGE_TOKENS + 1)``; a block that straddles a boundary is split.
  How many sessions are read at once makes no difference.
- **Elementwise** kernels have a vector body and a scalar tail that differ for exponentials and
  complex products. Where the tail falls depends on the length of the innermost dimension, the
  same for every row, unless the work is split among threads, which happens from
  :data:`_SERIAL_ELEMENTS` on. So these operations take :func:`rows_at_once` rows at a time.
- **Norms** reduce each row by itself, always alike.

The first point is tried on every layer at load (:mod:`~specrouter_dist.engine.linear`). Together
they make logits independent of the number of threads as well.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from specrouter_dist.engine.kv_cache import PAGE_TOKENS

LEAST_ROWS = 4
"""Fewest rows of a forward in exact mode; numbers of query rows are multiples of it."""

_SERIAL_ELEMENTS = 32767
"""Largest tensor that torch's elementwise CPU kernels never split among threads."""


def padded_rows(num_rows: int) -> int:
    """Number of rows that a forward of ``num_rows`` is computed with: always in exact mode, from
    ``LEAST_ROWS`` on else, since every new number costs oneDNN a compilation."""
    if num_rows <= 32:
        unit = LEAST_ROWS
    elif num_rows <= 64:
        unit = 8
    elif num_rows <= 256:
        unit = 32
    else:
        unit = 128
    return -(-num_rows // unit) * unit


def rows_at_once(width: int, device: torch.device) -> int:
    """How many rows of ``width`` elements an elementwise kernel may take in one call."""
    return max(1, _SERIAL_ELEMENTS // width) if device.type == "cpu" else sys.maxsize


@dataclass(frozen=True, slots=True)
class Span:
    """Consecutive positions of one session that lie in one page, so attend to equal lengths."""

    row: int
    """First row in the forward."""
    position: int
    count: int
    keys: int
    """Length of keys and values that the rows are computed with."""


def split_spans(row: int, start: int, count: int) -> Iterator[Span]:
    """Splits the positions ``[start, start + count)`` at page boundaries.

    Args:
        row: where the first of them is in the forward.
        start: first position.
        count: how many.
    """
    stop = start + count
    while start < stop:
        keys = (start // PAGE_TOKENS + 1) * PAGE_TOKENS
        size = min(stop, keys) - start
        yield Span(row, start, size, keys)
        row += size
        start += size


class CausalMasks:
    """Additive masks of every span, as views of one table."""

    def __init__(self, max_keys: int, dtype: torch.dtype, device: torch.device) -> None:
        """Fills the table, ``2 * PAGE_TOKENS`` by ``max_keys`` (whole pages) elements."""
        self._max_keys = max_keys
        # The last page of keys is lower triangular, what lies before is seen by every row. Rows
        # past a page see everything: they stand for padding, whose result nobody reads.
        future = torch.ones(PAGE_TOKENS, PAGE_TOKENS, dtype=torch.bool).triu(1)
        self._table = torch.zeros(2 * PAGE_TOKENS, max_keys, dtype=dtype, device=device)
        self._table[:PAGE_TOKENS, max_keys - PAGE_TOKENS :].masked_fill_(
            future.to(device), -torch.inf
        )

    def view(self, span: Span, num_rows: int) -> Tensor:
        """The mask ``[num_rows, span.keys]``, rows from ``span.count`` on being padding."""
        first = span.position % PAGE_TOKENS
        return self._table[first : first + num_rows, self._max_keys - span.keys :]
