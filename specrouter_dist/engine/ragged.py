"""One forward over parts of several sessions: where each row goes and what it may see."""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from specrouter_dist.engine.exactness import (
    CausalMasks,
    Span,
    padded_rows,
    split_spans,
)
from specrouter_dist.engine.kv_cache import KvCache, KvViews, PageTable, pages_for
from specrouter_dist.engine.llama_shape import LlamaShape
from specrouter_dist.speculation.messages import TOKEN_TYPECODE, TokenArray


@dataclass(frozen=True, slots=True)
class Part:
    """One session's rows."""

    table: PageTable
    start: int
    tokens: TokenArray


@dataclass(frozen=True, slots=True)
class _Read:
    """One span's attention: its query rows and, unless gathered layer by layer, its keys."""

    span: Span
    num_rows: int
    mask: Tensor
    views: KvViews | None
    pages: Tensor | None


class RaggedBatch:
    """Rows of a forward, concatenated, with the attention of every span.

    Args:
        parts: what is fed; positions must have been reserved and be writable.
        cache: of keys and values.
        masks: of its attention.
        rotary: complex64 ``[positions, 1, head_dim / 2]``.
        exact: fixed shapes (:mod:`~specrouter_dist.engine.exactness`).
    """

    def __init__(
        self,
        parts: Sequence[Part],
        shape: LlamaShape,
        cache: KvCache,
        masks: CausalMasks,
        rotary: Tensor,
        *,
        exact: bool,
    ) -> None:
        self._shape = shape
        self._cache = cache
        self._masks = masks
        self._exact = exact
        self._layers = cache.layers()
        self._count = sum(len(part.tokens) for part in parts)
        self._reads: list[_Read] = []
        num_rows = 0
        row = 0
        for part in parts:
            for span in split_spans(row, part.start, len(part.tokens)):
                read = self._plan_read(span, part.table)
                self._reads.append(read)
                num_rows = max(num_rows, span.row + read.num_rows)
            row += len(part.tokens)
        self.num_rows = padded_rows(num_rows) if exact else num_rows
        self._single = len(self._reads) == 1
        self.ids = self._token_ids(parts)
        self._target: slice | Tensor
        self._place(parts, rotary)

    def _plan_read(self, span: Span, table: PageTable) -> _Read:
        num_rows = padded_rows(span.count) if self._exact else span.count
        mask = self._masks.view(span, num_rows)
        if table.first_row is not None:
            return _Read(span, num_rows, mask, self._cache.run_views(table, span.keys), None)
        assert table.index is not None
        return _Read(span, num_rows, mask, None, table.index[: pages_for(span.keys)])

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
            row = first.table.first_row + first.start
            self._target = slice(row, row + self._count)
            self.rotations = rotary[first.start : first.start + self.num_rows]
            return
        positions = [p.start + i for p in parts for i in range(len(p.tokens))]
        rows = [p.table.row(p.start + i) for p in parts for i in range(len(p.tokens))]
        self._target = torch.tensor(rows, device=self._cache.device)
        positions += [0] * (self.num_rows - self._count)
        self.rotations = rotary.index_select(0, torch.tensor(positions, device=rotary.device))

    def attend(self, layer: int, qkv: Tensor) -> Tensor:
        """Stores one layer's keys and values and returns its attention's output.

        Args:
            layer: its number.
            qkv: ``[num_rows, query_size + kv_size]``.

        Returns:
            ``[num_rows, query_size]``.
        """
        query_size = self._shape.query_size
        fresh = qkv[: self._count, query_size:]
        if isinstance(self._target, slice):
            self._layers[layer][self._target] = fresh
        else:
            self._layers[layer].index_copy_(0, self._target, fresh)
        queries = qkv[:, :query_size].view(1, self.num_rows, -1, self._shape.head_dim)
        queries = queries.transpose(1, 2)
        if self._single:
            return self._attention(layer, queries, self._reads[0]).view(self.num_rows, -1)
        mixed = qkv.new_zeros(self.num_rows, query_size)
        for read in self._reads:
            row, count = read.span.row, read.span.count
            rows = self._attention(layer, queries[:, :, row : row + read.num_rows], read)
            mixed[row : row + count] = rows.view(read.num_rows, -1)[:count]
        return mixed

    def _attention(self, layer: int, queries: Tensor, read: _Read) -> Tensor:
        """``[1, heads, rows, dim]`` to ``[1, rows, heads, dim]``."""
        if read.views is not None:
            keys, values = read.views[layer]
        else:
            assert read.pages is not None
            keys, values = self._cache.gather(layer, read.pages)
        mixed = F.scaled_dot_product_attention(
            queries,
            keys,
            values,
            attn_mask=read.mask,
            enable_gqa=self._shape.num_heads != self._shape.num_kv_heads,
        )
        return mixed.transpose(1, 2)
