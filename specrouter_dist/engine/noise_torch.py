"""The shared noise as rows on the engine's device, made ahead in blocks of positions.

The same values as :mod:`specrouter_dist.speculation.noise`, bit for bit. On the CPU they are made
by NumPy (measured for 4096 ids: 18 µs a row, against 50 µs through torch) and kept as its arrays,
whose operations cost half of torch's; elsewhere by torch, whose int64 arithmetic wraps like
uint64's. Its shifts are arithmetic, hence the masks.
"""

import weakref
from typing import Any

import numpy as np
import torch
from torch import Tensor

from specrouter_dist.speculation.noise import (
    BELOW_ONE,
    GOLDEN,
    MIX_1,
    MIX_2,
    ONE_BITS,
    GumbelRows,
    row_key,
)

_MAX_BLOCK_ROWS = 8
_MAX_BLOCK_VALUES = 1 << 15
_MAX_KEPT_ROWS = 16
_MAX_KEPT_BYTES = 256 << 20


def signed64(value: int) -> int:
    """The int64 with the bits of a uint64."""
    return value - (1 << 64) if value >> 63 else value


class TorchGumbelRows:
    """:class:`~specrouter_dist.speculation.noise.GumbelRows` in torch operations, any device."""

    def __init__(self, num_ids: int, num_rows: int, device: torch.device) -> None:
        ids = torch.arange(num_ids, dtype=torch.int64, device=device)
        self._id_steps = ids.mul_(signed64(GOLDEN))
        self._bits = torch.empty((num_rows, num_ids), dtype=torch.int64, device=device)
        self._other = torch.empty_like(self._bits)
        self._num_rows = num_rows

    def fill(self, out: Tensor, seed: int, first_position: int) -> None:
        """Writes ``g(seed, first_position + row, id)`` to float32 ``out[num_rows, num_ids]``."""
        keys = [[signed64(row_key(seed, first_position + row))] for row in range(self._num_rows)]
        bits = self._bits
        torch.add(torch.tensor(keys, device=bits.device), self._id_steps, out=bits)
        for shift, factor in ((30, MIX_1), (27, MIX_2)):
            self._xor_shifted(shift)
            bits.mul_(signed64(factor))
        self._xor_shifted(31)
        bits.bitwise_right_shift_(12).bitwise_and_((1 << 52) - 1).bitwise_or_(ONE_BITS)
        uniform = bits.view(torch.float64)
        uniform.sub_(BELOW_ONE).log_().neg_().log_()
        out.copy_(uniform).neg_()

    def _xor_shifted(self, shift: int) -> None:
        torch.bitwise_right_shift(self._bits, shift, out=self._other)
        self._other.bitwise_and_((1 << (64 - shift)) - 1)
        self._bits.bitwise_xor_(self._other)


class NoiseSource:
    """Makes the sessions' noise of one engine; one set of work buffers for all of them.

    Args:
        num_ids: vocabulary size.
        max_sessions: how many :meth:`session` objects live at once; bounds what each may keep.
        device: where the rows are wanted.
    """

    def __init__(self, num_ids: int, max_sessions: int, device: torch.device) -> None:
        affordable = _MAX_KEPT_BYTES // (4 * num_ids * max_sessions)
        kept_rows = max(2, min(_MAX_KEPT_ROWS, affordable))
        self.block_rows = max(1, min(_MAX_BLOCK_ROWS, _MAX_BLOCK_VALUES // num_ids, kept_rows // 2))
        self.num_blocks = kept_rows // self.block_rows
        self.num_ids = num_ids
        self.maker: Any = (
            GumbelRows(num_ids, self.block_rows)
            if device.type == "cpu"
            else TorchGumbelRows(num_ids, self.block_rows, device)
        )
        self._device = device
        self._free: list[list[Any]] = []
        """Blocks of sessions that are over: memory that comes and goes with every session would
        be taken from the allocator in ever other pieces."""

    def session(self, seed: int) -> "SessionNoise":
        """The noise of one request."""
        blocks = self._free.pop() if self._free else [None] * self.num_blocks
        noise = SessionNoise(self, seed, blocks)
        # Forks and other members' sessions share it: it is over when nobody has it.
        weakref.finalize(noise, self._free.append, blocks).atexit = False
        return noise

    def make_block(self) -> Any:
        """Room for ``[block_rows, num_ids]``: an array on the CPU, else a tensor."""
        shape = (self.block_rows, self.num_ids)
        if self._device.type == "cpu":
            return np.empty(shape, dtype=np.float32)
        return torch.empty(shape, dtype=torch.float32, device=self._device)


class SessionNoise:
    """One request's noise: the last few blocks of rows, kept for positions drawn again.

    Blocks are aligned to multiples of their length, so that a row is always made in the same
    shape, whoever asks for it.
    """

    __slots__ = ("__weakref__", "_blocks", "_numbers", "_seed", "_source")

    def __init__(self, source: NoiseSource, seed: int, blocks: list[Any]) -> None:
        self._source = source
        self._seed = seed
        self._blocks = blocks
        self._numbers = [-1] * len(blocks)

    def add_to(self, scores: Any, first_position: int) -> None:
        """Adds ``g`` of positions ``first_position + row`` to float32 ``scores[rows, num_ids]``.

        On the CPU ``scores`` is an array, elsewhere a tensor.
        """
        block_rows = self._source.block_rows
        num_rows = len(scores)
        row = 0
        while row < num_rows:
            number, offset = divmod(first_position + row, block_rows)
            taken = min(num_rows - row, block_rows - offset)
            part = scores[row : row + taken]
            part += self._block(number)[offset : offset + taken]
            row += taken

    def _block(self, number: int) -> Any:
        place = number % len(self._blocks)
        block = self._blocks[place]
        if block is None:  # Most sessions need none: see engine/cpu/noise.h.
            block = self._blocks[place] = self._source.make_block()
        if self._numbers[place] != number:
            self._source.maker.fill(block, self._seed, number * self._source.block_rows)
            self._numbers[place] = number
        return block
