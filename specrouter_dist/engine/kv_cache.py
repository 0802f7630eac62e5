"""Keys and values of all sessions, in pages, allocated once.

A session's pages are reserved when it opens; how many of its positions are valid is an integer of
the session, so a rollback touches nothing here. Pages are handed out in contiguous runs where
possible: a run is read as a view, scattered pages are gathered first, with the same layout and
so the same bits.
"""

from array import array
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from specrouter_dist.errors import NoRoomError

PAGE_TOKENS = 64
"""Positions per page; also the step in which attention lengthens (:mod:`~...exactness`)."""


KvViews = list[tuple[Tensor, Tensor]]
"""Keys and values of each layer."""
_KEPT_VIEWS = 256


def pages_for(num_tokens: int) -> int:
    """Pages that hold ``num_tokens`` positions."""
    return -(-num_tokens // PAGE_TOKENS)


class PageAllocator:
    """Which pages are in use, by how many sessions each. Knows nothing of tensors."""

    def __init__(self, num_pages: int) -> None:
        self._users = [0] * num_pages
        self._num_free = num_pages

    @property
    def num_free(self) -> int:
        return self._num_free

    def users(self, page: int) -> int:
        """How many sessions hold ``page``."""
        return self._users[page]

    def has_run(self, count: int) -> bool:
        """Whether ``count`` pages in a row are free."""
        return count <= self._num_free and self._run(count) is not None

    def take(self, count: int) -> list[int]:
        """``count`` free pages: the first contiguous run that is long enough, else the first free.

        Raises:
            NoRoomError: fewer are free.
        """
        if count > self._num_free:
            raise NoRoomError(f"KV cache: {count} pages wanted, {self._num_free} free")
        pages = self._run(count)
        if pages is None:
            free = (page for page, users in enumerate(self._users) if users == 0)
            pages = [next(free) for _ in range(count)]
        for page in pages:
            self._users[page] = 1
        self._num_free -= count
        return pages

    def share(self, pages: Sequence[int]) -> None:
        """One more session holds each of ``pages``."""
        for page in pages:
            self._users[page] += 1

    def drop(self, pages: Sequence[int]) -> None:
        """One session fewer holds each of ``pages``."""
        for page in pages:
            self._users[page] -= 1
            self._num_free += self._users[page] == 0

    def _run(self, count: int) -> list[int] | None:
        length = 0
        for page, users in enumerate(self._users):
            length = length + 1 if users == 0 else 0
            if length == count:
                return list(range(page - count + 1, page + 1))
        return None


class PageTable:
    """One session's pages, in order of position."""

    __slots__ = ("_numbers", "address", "first_row", "index", "pages")

    def __init__(self, pages: list[int], device: torch.device) -> None:
        self.pages = pages
        contiguous = pages == list(range(pages[0], pages[0] + len(pages)))
        self.first_row = pages[0] * PAGE_TOKENS if contiguous else None
        """Row of position 0 when the pages form one run, else None."""
        self._numbers = array("i", pages)
        self.address = self._numbers.buffer_info()[0]
        """Of the pages in memory, as int32; valid while this is."""
        self.index = None if contiguous else torch.tensor(pages, device=device)

    def row(self, position: int) -> int:
        """Row of the cache that holds ``position``."""
        return self.pages[position // PAGE_TOKENS] * PAGE_TOKENS + position % PAGE_TOKENS


class KvCache:
    """The storage: for each layer a row of keys and values per position.

    Args:
        num_layers: of the model.
        num_pages: of :data:`PAGE_TOKENS` positions each.
        num_kv_heads: heads of keys, and of values.
        head_dim: width of a head.
        dtype: number format.
        device: where.
    """

    def __init__(
        self,
        num_layers: int,
        num_pages: int,
        num_kv_heads: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        # Zeros, not empty: masked positions are multiplied by zero, and must be finite for that.
        self._rows = torch.zeros(
            (num_layers, num_pages * PAGE_TOKENS, 2 * num_kv_heads * head_dim),
            dtype=dtype,
            device=device,
        )
        self._heads = (2, num_kv_heads, head_dim)
        self.address = self._rows.data_ptr()
        """Of the first row of the first layer; the rest lies behind it."""
        self.layers = self._rows.unbind(0)
        """Per layer ``[num_rows, 2 * num_kv_heads * head_dim]``: keys, then values."""
        self.allocator = PageAllocator(num_pages)
        self.device = device
        self._views = lru_cache(_KEPT_VIEWS)(self._make_views)

    @property
    def num_bytes(self) -> int:
        return self._rows.nbytes

    @property
    def num_rows(self) -> int:
        """Of each layer."""
        return self._rows.shape[1]

    def rows(self, first: int, count: int) -> tuple[Tensor, ...]:
        """Consecutive rows of each layer, as views."""
        return self._rows[:, first : first + count].unbind(0)

    def run_views(self, first_row: int, distance: int, num_runs: int, num_tokens: int) -> KvViews:
        """Keys and values of contiguous runs at equal distances, per layer, without copying.

        Making them costs as much as some of the reads that they are for, and their length changes
        once a page: those last used are kept.

        Args:
            first_row: of the first run.
            distance: from the beginning of a run to that of the next, in rows, at least 0.
            num_runs: how many.
            num_tokens: of each.

        Returns:
            pairs ``[num_runs, num_kv_heads, num_tokens, head_dim]``.
        """
        return self._views(first_row, distance, num_runs, num_tokens)

    def _make_views(self, first_row: int, distance: int, num_runs: int, num_tokens: int) -> KvViews:
        num_layers, num_rows, width = self._rows.shape
        _, num_heads, head_dim = self._heads
        run = self._rows.as_strided(
            (2, num_layers, num_runs, num_heads, num_tokens, head_dim),
            (width // 2, num_rows * width, distance * width, head_dim, width, 1),
            first_row * width,
        )
        keys, values = run.unbind(0)
        return list(zip(keys.unbind(0), values.unbind(0), strict=True))

    def gather(self, layer: int, pages: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of scattered pages of one layer, copied into one run."""
        paged = self._rows[layer].view(-1, PAGE_TOKENS * self._rows.shape[2])
        run = paged.index_select(0, pages).view(-1, *self._heads)
        keys, values = run.permute(1, 2, 0, 3).unsqueeze(1).unbind(0)
        return keys, values

    def copy_page(self, source: int, target: int) -> None:
        """Copies one page of all layers."""
        num_layers, num_rows, width = self._rows.shape
        paged = self._rows.view(num_layers, num_rows // PAGE_TOKENS, PAGE_TOKENS, width)
        paged[:, target].copy_(paged[:, source])
