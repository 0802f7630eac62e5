"""RMSNorm over the rows of a forward.

torch has no kernel of its own for it on the CPU: ``F.rms_norm`` is a dozen small operations there,
and took a sixth of a small target's step. These are five, into buffers made once.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

_KEPT_ROWS = 32
"""Buffers of forwards up to this size, which recur, are kept."""


class RmsNorm:
    """``x / sqrt(mean(x^2) + eps) * weight``, in float32, rounded once.

    Args:
        width: of a row.
        eps: as in the model's config.
        dtype: of the result.
        device: of everything.
    """

    def __init__(self, width: int, eps: float, dtype: torch.dtype, device: torch.device) -> None:
        self._width = width
        self._eps = eps
        self._dtype = dtype
        self._is_cpu = device.type == "cpu"
        self._buffers: dict[int, tuple[Tensor, ...]] = {}

    def prepare(self, weight: Tensor) -> Tensor:
        """The weight as :meth:`__call__` wants it."""
        # On the CPU rows are divided by their length instead of their root mean square.
        return weight.float() * self._width**0.5 if self._is_cpu else weight

    def __call__(self, rows: Tensor, weight: Tensor) -> Tensor:
        """Normalises ``[num_rows, width]``; the next call of the same size overwrites the result.

        Args:
            rows: as they are.
            weight: ``[width]``, from :meth:`prepare`.
        """
        if not self._is_cpu:
            return F.rms_norm(rows, (self._width,), weight, self._eps)
        wide, as_row, as_column, eps, square, scale, result = self._buffers_of(rows.shape[0])
        wide.copy_(rows)
        torch.baddbmm(eps, as_row, as_column, out=square).rsqrt_()
        return torch.mul(wide.mul_(scale), weight, out=result)

    def _buffers_of(self, num_rows: int) -> tuple[Tensor, ...]:
        buffers = self._buffers.get(num_rows)
        if buffers is None:
            wide = torch.empty(num_rows, self._width)
            square = torch.empty(num_rows, 1, 1)
            buffers = (
                wide,
                wide.unsqueeze(1),
                wide.unsqueeze(2),
                torch.full((num_rows, 1, 1), self._eps * self._width),
                square,
                square.view(num_rows, 1),
                torch.empty(num_rows, self._width, dtype=self._dtype),
            )
            if num_rows <= _KEPT_ROWS:
                self._buffers[num_rows] = buffers
        return buffers
