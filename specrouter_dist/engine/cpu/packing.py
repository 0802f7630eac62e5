"""Weights in the order in which the compiled decoder reads them."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from specrouter_dist.config import Quantization
from specrouter_dist.engine.cpu.library import BLOCK_INS, Matrix

_WEIGHT_BITS = 13
"""Beside the sign, of whole weights of 16 bits."""
_MOST_BYTE = 127
_PANELS_AT_ONCE = 64
"""That are made whole at once: it takes several times their memory."""
_MOST_INPUT = 2**15 - 1
_MOST_SUM = 2**31 - 1


@dataclass(frozen=True, slots=True)
class PackedLinear:
    """A linear layer: panels of outputs, within a panel input by input.

    Attributes:
        panels: float32 ``[panels, num_ins, panel_outs]``, or int16 or int8 ``[panels, pairs of
            inputs, panel_outs, 2]``.
        scales: of whole weights, for each output of the panels.
        input_limit: up to which whole inputs may go.
    """

    panels: Tensor
    bias: Tensor | None
    scales: Tensor | None
    num_ins: int
    num_outs: int
    input_limit: int

    @property
    def num_bytes(self) -> int:
        """As held in memory."""
        tensors = (self.panels, self.bias, self.scales)
        return sum(tensor.nbytes for tensor in tensors if tensor is not None)

    def matrix(self) -> Matrix:
        """For a call; valid while this is."""
        bias, scales = (
            None if tensor is None else tensor.data_ptr() for tensor in (self.bias, self.scales)
        )
        return Matrix(
            self.panels.data_ptr(),
            bias,
            scales,
            self.num_ins,
            self.num_outs,
            self.input_limit,
            self.panels.itemsize,
        )


@dataclass(frozen=True, slots=True)
class Packing:
    """How a library wants weights.

    Attributes:
        panel_outs: outputs that it computes side by side.
        quantization: of all weights.
    """

    panel_outs: int
    quantization: Quantization | None = None

    def linear(self, weight: Tensor, bias: Tensor | None) -> PackedLinear:
        """
        Args:
            weight: float32, or bfloat16, which becomes whole numbers, as all do that are to be
                quantised, ``[out_features, in_features]``.
            bias: ``[out_features]`` or None.
        """
        fused = None if bias is None else bias.float().contiguous()
        if weight.dtype == torch.float32 and self.quantization is None:
            num_outs, num_ins = weight.shape
            cells = F.pad(weight, (0, 0, 0, -num_outs % self.panel_outs))
            panels = cells.view(-1, self.panel_outs, num_ins).transpose(1, 2).contiguous()
            return PackedLinear(panels, fused, None, num_ins, num_outs, 0)
        return self._whole_linear(weight, fused)

    def gate_up(self, weight: Tensor, bias: Tensor | None) -> PackedLinear:
        """The same of gates, and ups behind them."""
        return self.linear(self.pad_halves(weight), None if bias is None else self.pad_halves(bias))

    def whole_panels(self, num_outs: int) -> int:
        """Rounded up."""
        return -(-num_outs // self.panel_outs) * self.panel_outs

    def pad_halves(self, tensor: Tensor) -> Tensor:
        """Gates, and ups behind them, along the first dimension, each filled up to whole panels."""
        halves = tensor.view(2, -1, *tensor.shape[1:])
        missing = self.whole_panels(halves.shape[1]) - halves.shape[1]
        padding = (0, 0) * (tensor.dim() - 1)
        return F.pad(halves, (*padding, 0, missing)).flatten(0, 1)

    def _whole_linear(self, weight: Tensor, bias: Tensor | None) -> PackedLinear:
        num_outs, num_ins = weight.shape
        num_panels, num_pairs = self.whole_panels(num_outs) // self.panel_outs, -(-num_ins // 2)
        dtype = torch.int16 if self.quantization is None else torch.int8
        panels = torch.empty(num_panels, num_pairs, self.panel_outs, 2, dtype=dtype)
        scales = torch.empty(num_panels, self.panel_outs)
        limit = _MOST_INPUT
        for first in range(0, num_panels, _PANELS_AT_ONCE):
            some = weight[first * self.panel_outs :][: _PANELS_AT_ONCE * self.panel_outs].float()
            some = F.pad(some, (0, num_ins % 2, 0, -len(some) % self.panel_outs))
            some_scales = _powers_of_two(some) if self.quantization is None else _shares(some)
            whole = (some / some_scales[:, None]).round_().nan_to_num_(0.0, 0.0, 0.0)
            pairs = whole.view(-1, self.panel_outs, num_pairs, 2).transpose(1, 2)
            panels[first:][: len(pairs)] = pairs
            scales[first:][: len(pairs)] = some_scales.view(-1, self.panel_outs)
            limit = min(limit, _input_limit(whole))
        return PackedLinear(panels, bias, scales.flatten(), num_ins, num_outs, limit)


def _powers_of_two(weight: Tensor) -> Tensor:
    """What whole weights of 16 bits are multiples of, one per output.

    A bfloat16 number has eight bits, so those that are at least a 32nd of the largest stay what
    they are; others are rounded. An output that has a weight that is no number has such a scale.
    """
    largest = weight.abs().amax(1)
    exponents = torch.frexp(largest).exponent - _WEIGHT_BITS
    return torch.ldexp(torch.where(largest.isfinite(), 1.0, torch.nan), exponents)


def _shares(weight: Tensor) -> Tensor:
    """The same of 8 bits: the largest weight is 127 of them."""
    return weight.abs().amax(1) / _MOST_BYTE


def _input_limit(whole: Tensor) -> int:
    """Of inputs up to which a block's sum of products fits into 32 bits."""
    sizes = F.pad(whole.abs(), (0, -whole.shape[1] % BLOCK_INS)).view(len(whole), -1, BLOCK_INS)
    return min(_MOST_INPUT, _MOST_SUM // max(1, int(sizes.sum(2).amax().item())))
