"""One forward over parts of several sessions: where each row goes and what it may see."""

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from specrouter_dist.engine.decoder import Part
from specrouter_dist.engine.exactness import LEAST_ROWS, CausalMasks, Span, padded_rows, split_spans
from specrouter_dist.engine.kv_cache import PAGE_TOKENS, KvCache, KvViews, PageTable, pages_for
from specrouter_dist.engine.workspace import Workspace, Workspaces
from specrouter_dist.speculation.messages import TOKEN_TYPECODE


@dataclass(frozen=True, slots=True)
class _Planned:
    """One span."""

    span: Span
    num_rows: int
    """That it is computed with."""
    table: PageTable

    @property
    def shape(self) -> tuple[int, int, int]:
        """Spans of which this is equal can be read at once."""
        return self.span.count, self.num_rows, self.span.keys


@dataclass(frozen=True, slots=True)
class _Read:
    """The attention of spans of one shape, at equal distances in the forward and in the cache."""

    queries: Tensor
    """``[num_spans, num_heads, padded rows, head_dim]``. Padding lies on rows of the next span, or
    behind the last."""
    mask: Tensor
    keys_values: KvViews | Tensor
    """Views of runs of pages, or the numbers of scattered ones, gathered layer by layer."""
    result: Tensor
    """Where the result goes, without the padding."""


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
        planned: list[_Planned] = []
        num_rows = 0
        row = 0
        for part in parts:
            for span in split_spans(row, part.start, len(part.tokens)):
                rows = padded_rows(span.count) if exact else span.count
                planned.append(_Planned(span, rows, part.table))
                num_rows = max(num_rows, span.row + rows)
            row += len(part.tokens)
        self._count = row
        self.num_rows = num_rows if num_rows < LEAST_ROWS else padded_rows(num_rows)
        self.work = workspaces.of(self.num_rows)
        self._reads = [_plan_read(self.work, cache, masks, spans) for spans in _at_once(planned)]
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
            read.result.copy_(mixed[:, :, : read.result.shape[2]])


def reading_order(table: PageTable, start: int, num_tokens: int) -> tuple[int, int, int]:
    """Sorted by it, parts that can be read at once are neighbours."""
    first_row = -1 if table.first_row is None else table.first_row
    return start // PAGE_TOKENS, num_tokens, first_row


def _at_once(planned: Sequence[_Planned]) -> Iterator[list[_Planned]]:
    """Neighbours that one call of the attention can read: a call costs as much as reading a short
    context does. What each row gets does not depend on it."""
    group: list[_Planned] = []
    for plan in planned:
        if group and not _continues(group, plan):
            yield group
            group = []
        group.append(plan)
    if group:
        yield group


def _continues(group: Sequence[_Planned], plan: _Planned) -> bool:
    last = group[-1]
    if last.shape != plan.shape or last.table.first_row is None or plan.table.first_row is None:
        return False
    distance = _distance(last, plan)
    if len(group) > 1:
        return distance == _distance(group[0], group[1])
    return min(distance) >= 0


def _distance(one: _Planned, other: _Planned) -> tuple[int, int]:
    """In rows of the forward and of the cache, both in runs of pages."""
    assert one.table.first_row is not None and other.table.first_row is not None
    return other.span.row - one.span.row, other.table.first_row - one.table.first_row


def _plan_read(
    work: Workspace, cache: KvCache, masks: CausalMasks, spans: Sequence[_Planned]
) -> _Read:
    first = spans[0]
    count, num_rows, num_keys = first.shape
    between = _distance(*spans[:2]) if len(spans) > 1 else (0, 0)
    views: KvViews | Tensor
    if first.table.first_row is not None:
        views = cache.run_views(first.table.first_row, between[1], len(spans), num_keys)
    else:
        assert first.table.index is not None
        views = first.table.index[: pages_for(num_keys)]
    seen = [masks.view(plan.span, num_rows) for plan in spans]
    return _Read(
        queries=_rows_of(work.queries, first.span.row, between[0], len(spans), num_rows),
        mask=seen[0] if len(spans) == 1 else torch.stack(seen).unsqueeze(1),
        keys_values=views,
        result=_rows_of(work.mixed_heads, first.span.row, between[0], len(spans), count),
    )


def _rows_of(heads: Tensor, row: int, distance: int, num_spans: int, num_rows: int) -> Tensor:
    """``[num_spans, num_heads, num_rows, head_dim]`` of ``[1, num_heads, rows, head_dim]``."""
    if num_spans == 1:
        return heads[:, :, row : row + num_rows]
    _, num_heads, _, head_dim = heads.shape
    _, of_head, of_row, of_element = heads.stride()
    return heads.as_strided(
        (num_spans, num_heads, num_rows, head_dim),
        (distance * of_row, of_head, of_row, of_element),
        heads.storage_offset() + row * of_row,
    )
