"""Linear layers: weights packed once for oneDNN on the CPU, plain elsewhere.

On the CPU oneDNN's kernels over pre-packed weights are the fastest of those that torch has for
few rows (bfloat16, 4 rows, one thread: 1.3 to 2.5 times faster than ``F.linear``), and each row's
rounding is the same at any number of rows from 4 on, at any number of threads.
"""

from collections.abc import Iterable
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from specrouter_dist.engine.exactness import LEAST_ROWS


class Linear(Protocol):
    """``y = x W^T + b`` and the same with a residual added."""

    weight_bytes: int

    def __call__(self, rows: Tensor) -> Tensor:
        """``[num_rows, in_features]`` to ``[num_rows, out_features]``."""
        ...

    def add_to(self, residual: Tensor, rows: Tensor) -> Tensor:
        """``residual + x W^T + b``, a new tensor."""
        ...


class PlainLinear:
    """Any device, any dtype."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self._weight = weight
        self._bias = bias
        self.weight_bytes = weight.nbytes

    def __call__(self, rows: Tensor) -> Tensor:
        return F.linear(rows, self._weight, self._bias)

    def add_to(self, residual: Tensor, rows: Tensor) -> Tensor:
        return residual + F.linear(rows, self._weight, self._bias)


class PackedLinear:
    """oneDNN over weights in its own blocked layout (CPU)."""

    _PACKED_FOR_ROWS = 16

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        reorder = torch.ops.mkldnn._reorder_linear_weight
        self._weight = reorder(weight.contiguous(), self._PACKED_FOR_ROWS)
        self._bias = bias
        self._plain = torch.ops.mkldnn._linear_pointwise.default
        self._binary = torch.ops.mkldnn._linear_pointwise.binary
        self.weight_bytes = weight.nbytes

    def __call__(self, rows: Tensor) -> Tensor:
        result: Tensor = self._plain(rows, self._weight, self._bias, "none", [], "")
        return result

    def add_to(self, residual: Tensor, rows: Tensor) -> Tensor:
        result: Tensor = self._binary(rows, residual, self._weight, self._bias, "add")
        return result


class GroupedLinear:
    """Another linear layer, over groups of rows.

    For devices on which a row's rounding depends on how many there are: groups of some sizes go
    through one kernel.

    Args:
        inner: the layer.
        most_rows: of a group.
        unit: groups have a multiple of so many rows; what is missing is padded.
    """

    def __init__(self, inner: Linear, most_rows: int, unit: int) -> None:
        self._inner = inner
        self._most_rows = most_rows
        self._unit = unit
        self.weight_bytes = inner.weight_bytes

    def __call__(self, rows: Tensor) -> Tensor:
        if self._is_group(rows):
            return self._inner(rows)
        return torch.cat([self._inner(group) for group in self._groups(rows)])[: len(rows)]

    def add_to(self, residual: Tensor, rows: Tensor) -> Tensor:
        if self._is_group(rows):
            return self._inner.add_to(residual, rows)
        groups = zip(self._groups(residual), self._groups(rows), strict=True)
        return torch.cat([self._inner.add_to(some, group) for some, group in groups])[: len(rows)]

    def _is_group(self, rows: Tensor) -> bool:
        return len(rows) <= self._most_rows and len(rows) % self._unit == 0

    def _groups(self, rows: Tensor) -> tuple[Tensor, ...]:
        missing = -len(rows) % self._unit
        return torch.split(F.pad(rows, (0, 0, 0, missing)), self._most_rows)


_PROBED_ROWS = 64
_PROBED_RESULTS = 1 << 18
"""So many results are compared, in at most ``_MOST_PROBED_ROWS`` rows: a kernel (bfloat16, 768 to
288, a CPU with AMX) was seen to round one in 6,000 in another way from 40 rows on."""
_MOST_PROBED_ROWS = 1024
_GROUP_ROWS = 32
"""The same kernel rounded all numbers of rows up to here alike."""


def rounds_rows_alike(
    linear: Linear, in_features: int, like: Tensor, *, most_rows: int | None = None
) -> bool:
    """Whether a row's result is the same among 4, 8, 64 and more rows, with a residual and without,
    tried on random rows.

    Args:
        linear: the layer.
        in_features: its number of inputs.
        like: a tensor of the dtype and on the device of its inputs.
        most_rows: only among so many rows at most, all multiples of 4.
    """
    generator = torch.Generator().manual_seed(0)
    out_features = linear(torch.zeros(LEAST_ROWS, in_features).to(like)).shape[1]
    num_rows = min(max(_PROBED_RESULTS // out_features, _PROBED_ROWS), _MOST_PROBED_ROWS)
    rows = torch.randn(num_rows, in_features, generator=generator).to(like)
    residual = torch.randn(num_rows, out_features, generator=generator).to(like)

    def results(size: int) -> tuple[Tensor, Tensor]:
        groups = list(zip(torch.split(residual, size), torch.split(rows, size), strict=True))
        plain = torch.cat([linear(some) for _, some in groups])
        return plain, torch.cat([linear.add_to(before, some) for before, some in groups])

    plain, added = results(LEAST_ROWS)
    sizes: Iterable[int] = (2 * LEAST_ROWS, _PROBED_ROWS, num_rows)
    if most_rows is not None:
        sizes = range(2 * LEAST_ROWS, most_rows + 1, LEAST_ROWS)
    for size in sizes:
        more_plain, more_added = results(size)
        if not torch.equal(plain, more_plain) or not torch.equal(added, more_added):
            return False
    return True


Tried = dict[tuple[torch.Size, torch.dtype, bool], int | None]
"""By the size and dtype of a layer and whether it has a bias: rows of the largest groups in which
its kernel rounds all rows alike; None: any number. That goes by the kernel, not by the weights."""


def make_linear(
    weight: Tensor, bias: Tensor | None, *, exact: bool, tried: Tried | None = None
) -> Linear:
    """The fastest linear layer for the weight's device, dtype and size.

    Args:
        weight: ``[out_features, in_features]``.
        bias: ``[out_features]`` or None.
        exact: whether a row's rounding must not depend on the number of rows.
        tried: what is known of layers on the same device; learns of this one.
    """
    packable = weight.device.type == "cpu" and is_packable(weight.dtype)
    if not exact:
        return PackedLinear(weight, bias) if packable else PlainLinear(weight, bias)
    linear: Linear = PackedLinear(weight, bias) if packable else PlainLinear(weight, bias)
    tried = {} if tried is None else tried
    kind = weight.shape, weight.dtype, bias is not None
    if kind not in tried:
        tried[kind] = _rows_alike(linear, weight)
    most_rows = tried[kind]
    if most_rows is None:
        return linear
    unit = LEAST_ROWS if weight.device.type == "cpu" else most_rows
    return GroupedLinear(linear, most_rows, unit)


def _rows_alike(linear: Linear, weight: Tensor) -> int | None:
    """Rows of the largest groups in which it rounds all alike; None: it always does."""
    in_features = weight.shape[1]
    if rounds_rows_alike(linear, in_features, weight):
        return None
    if weight.device.type != "cpu":
        return _PROBED_ROWS
    is_alike = rounds_rows_alike(linear, in_features, weight, most_rows=_GROUP_ROWS)
    return _GROUP_ROWS if is_alike else LEAST_ROWS


def is_packable(dtype: torch.dtype) -> bool:
    """Whether this CPU multiplies matrices of the type by itself."""
    if not torch._C._has_mkldnn:
        return False
    return dtype == torch.float32 or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
