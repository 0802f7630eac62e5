"""One forward over parts of several sessions: where each row goes and what it may see."""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from specrouter_dist.engine.exactness import LEAST_ROWS, CausalMasks, Span, padded_rows, split_spans
from specrouter_dist.engine.kv_cache import KvCache, KvViews, PageTable, pages_for
from specrouter_dist.engine.workspace import Workspace, Workspaces
from specrouter_dist.speculation.messages import TOKEN_TYPECODE, TokenArray


@dataclass(frozen=True, slots=True)
class Part:
    """One session's rows."""

    table: PageTable
    start: int
    tokens: TokenArray


@dataclass(frozen=True, slots=True)
class _Read:
    """One span's attention."""

    queries: Tensor
    """``[1, num_heads, padded rows, head_dim]``."""
    mask: Tensor
    keys_values: KvViews | Tensor
    """Views of a run of pages, or the numbers of scattered ones, gathered layer by layer."""
    result: Tensor
    """Where the result goes, of the same shape. Its padding lies on rows of the next span, which
    is read after it, or behind the last."""


class RaggedBatch:
    """Rows of a forward, concatenated, with the attention of every span.

    Args:
        parts: what is fed; positions must have been reserved and be writable.
        cache: of keys and values.
        masks: of its attention.
        rotary: complex64 ``[positions, 1, head_dim / 2]``.
        workspaces: of the model.
        exact: fixed shapes (:mod:`~specrouter_dist.engine.exactness`).
    """

    def __init__(
        self,
        parts: Sequence[Part],
        cache: KvCache,
        masks: CausalMasks,
        rotary: Tensor,
        workspaces: Workspaces,
        *,
        exact: bool,
    ) -> None:
        self._cache = cache
        planned: list[tuple[Span, int, PageTable]] = []
        num_rows = 0
        row = 0
        for part in parts:
            for span in split_spans(row, part.start, len(part.tokens)):
                rows = padded_rows(span.count) if exact else span.count
                planned.append((span, rows, part.table))
                num_rows = max(num_rows, span.row + rows)
            row += len(part.tokens)
        self._count = row
        self.num_rows = num_rows if num_rows < LEAST_ROWS else padded_rows(num_rows)
        self.work = workspaces.of(self.num_rows)
        self._reads = [_plan_read(self.work, cache, masks, *plan) for plan in planned]
        self._fresh = self.work.fresh[:row]
        self.ids = self._token_ids(parts)
        self._runs: tuple[Tensor, ...] | None = None
        self._rows: Tensor | None = None
        self._place(parts, rotary)

    def _token_ids(self, parts: Sequence[Part]) -> Tensor:
        ids = array(TOKEN_TYPECODE, parts[0].tokens)
        for part in parts[1:]:
            ids.extend(part.tokens)
        ids.extend([0] * (self.num_rows - len(ids)))
        return torch.frombuffer(ids, dtype=torch.int32).to(self._cache.device)

    def _place(self, parts: Sequence[Part], rotary: Tensor) -> None:
        """Where keys and values go, and the rotations of the rows' positions."""
        first = parts[0]
        if len(parts) == 1 and first.table.first_row is not None:
            self._runs = self._cache.rows(first.table.first_row + first.start, self._count)
            self.rotations = rotary[first.start : first.start + self.num_rows]
            return
        positions = [p.start + i for p in parts for i in range(len(p.tokens))]
        rows = [p.table.row(p.start + i) for p in parts for i in range(len(p.tokens))]
        self._rows = torch.tensor(rows, device=self._cache.device)
        positions += [0] * (self.num_rows - self._count)
        self.rotations = rotary.index_select(0, torch.tensor(positions, device=rotary.device))

    def attend(self, layer: int) -> None:
        """Stores one layer's keys and values and leaves its attention's result in ``work.mixed``.

        Args:
            layer: its number; ``work.attended`` holds its queries, keys and values.
        """
        if self._runs is not None:
            self._runs[layer].copy_(self._fresh)
        else:
            assert self._rows is not None
            self._cache.layers[layer].index_copy_(0, self._rows, self._fresh)
        for read in self._reads:
            where = read.keys_values
            if isinstance(where, Tensor):
                keys, values = self._cache.gather(layer, where)
            else:
                keys, values = where[layer]
            mixed = F.scaled_dot_product_attention(
                read.queries, keys, values, attn_mask=read.mask, enable_gqa=True
            )
            read.result.copy_(mixed)


def _plan_read(
    work: Workspace, cache: KvCache, masks: CausalMasks, span: Span, rows: int, table: PageTable
) -> _Read:
    views: KvViews | Tensor
    if table.first_row is not None:
        views = cache.run_views(table, span.keys)
    else:
        assert table.index is not None
        views = table.index[: pages_for(span.keys)]
    return _Read(
        queries=work.queries[:, :, span.row : span.row + rows],
        mask=masks.view(span, rows),
        keys_values=views,
        result=work.mixed_heads[:, :, span.row : span.row + rows],
    )
