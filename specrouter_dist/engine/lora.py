"""LoRA adapters in the fast engine: low-rank terms on some rows of a forward, never merged.

The base's linear layers run over all rows of a batch at once. On top, rows of an adapter's sessions
get ``x A^T B^T``, adapter by adapter. A forward without such rows does nothing of it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class LowRank:
    """What an adapter adds to one linear layer: ``rows @ down @ up``."""

    down: Tensor
    """``[in_features, rank]``."""
    up: Tensor
    """``[rank, out_features]``, scaled."""

    def add_to(self, result: Tensor, rows: Tensor) -> None:
        """Adds to ``[num_rows, out_features]`` in place, from ``[num_rows, in_features]``."""
        result.add_(torch.mm(torch.mm(rows.to(self.down.dtype), self.down), self.up))


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Adapter:
    """The weights of one adapter, as the decoder of its base wants them."""

    name: str
    num_parameters: int
    layers: Sequence[Mapping[str, LowRank]]
    """By layer and name of the fused linear layer (``adapter_files.FUSED``); what is not adapted is
    left out."""

    @property
    def num_bytes(self) -> int:
        """As held in memory."""
        terms = (term for layer in self.layers for term in layer.values())
        return sum(term.down.nbytes + term.up.nbytes for term in terms)


class AdaptedRows:
    """Which rows of one forward belong to which adapter: ``runs``, adapters each with a slice of
    the rows."""

    def __init__(self, runs: Sequence[tuple[Adapter, slice]]) -> None:
        self.runs = runs

    @classmethod
    def of(cls, sessions: Iterable[tuple[Adapter | None, int]]) -> Self | None:
        """
        Args:
            sessions: the adapter, if it has one, and the number of rows of each session in the
                order of the rows.

        Returns:
            None where there is no adapter.
        """
        runs: list[tuple[Adapter, slice]] = []
        stop = 0
        for adapter, num_rows in sessions:
            start, stop = stop, stop + num_rows
            if adapter is None:
                continue
            if runs and runs[-1][0] is adapter and runs[-1][1].stop == start:
                start = runs.pop()[1].start
            runs.append((adapter, slice(start, stop)))
        return cls(runs) if runs else None

    def add(self, layer: int, name: str, result: Tensor, rows: Tensor) -> None:
        """Adds every adapter's term of a linear layer to its rows of ``result``, in place.

        Args:
            layer: its number.
            name: of the fused linear layer.
            result: ``[num_rows, out_features]``, of the base.
            rows: ``[num_rows, in_features]``.
        """
        for adapter, run in self.runs:
            term = adapter.layers[layer].get(name)
            if term is not None:
                term.add_to(result[run], rows[run])
