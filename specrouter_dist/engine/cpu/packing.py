"""Weights in the order in which the compiled decoder reads them."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from specrouter_dist.engine.cpu.library import Matrix

PANEL_OUTS = 32
"""Outputs that are computed side by side."""
_LANES = PANEL_OUTS // 2


@dataclass(frozen=True, slots=True)
class PackedLinear:
    """A linear layer: panels of outputs, within a panel input by input."""

    panels: Tensor
    bias: Tensor | None
    num_ins: int
    num_outs: int

    @property
    def num_bytes(self) -> int:
        """As held in memory."""
        return self.panels.nbytes + (0 if self.bias is None else self.bias.nbytes)

    def matrix(self) -> Matrix:
        """For a call; valid while this is."""
        bias = None if self.bias is None else self.bias.data_ptr()
        return Matrix(self.panels.data_ptr(), bias, self.num_ins, self.num_outs)


def pack_linear(weight: Tensor, bias: Tensor | None) -> PackedLinear:
    """
    Args:
        weight: float32 or bfloat16 ``[out_features, in_features]``.
        bias: ``[out_features]`` or None.
    """
    num_outs, num_ins = weight.shape
    cells = F.pad(weight, (0, 0, 0, -num_outs % PANEL_OUTS)).view(-1, 2, _LANES, num_ins)
    # Two bfloat16 make a word: output i of a panel and output i + 16.
    order = (0, 3, 2, 1) if weight.dtype == torch.bfloat16 else (0, 3, 1, 2)
    fused = None if bias is None else bias.float().contiguous()
    return PackedLinear(cells.permute(order).contiguous(), fused, num_ins, num_outs)


def whole_panels(num_outs: int) -> int:
    """Rounded up."""
    return -(-num_outs // PANEL_OUTS) * PANEL_OUTS


def pad_halves(tensor: Tensor) -> Tensor:
    """Gates, and ups behind them, along the first dimension, each filled up to whole panels."""
    halves = tensor.view(2, -1, *tensor.shape[1:])
    missing = whole_panels(halves.shape[1]) - halves.shape[1]
    padding = (0, 0) * (tensor.dim() - 1)
    return F.pad(halves, (*padding, 0, missing)).flatten(0, 1)
