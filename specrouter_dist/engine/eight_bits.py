"""Linear layers of torch with weights in 8 bits, for drafters, whose text nobody reads.

A forward of few rows is bound by the reading of weights: half the bytes of bfloat16. On the CPU,
where the compiled decoder (cpu/) does without torch unless there was no compiler, only the weights
are rounded (``int8``). Kernels of GPUs multiply 8 bits by 8 bits, so there each
row is rounded as well when it comes (dynamic quantization), with a scale of its own. Nothing here
waits for the device, so that a graph can hold it.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from specrouter_dist.config import Quantization
from specrouter_dist.engine.linear import (
    Linear,
    PackedLinear,
    PlainLinear,
    is_packable,
    make_linear,
)
from specrouter_dist.errors import EngineError

_MOST_INT8 = 127
_MOST_FP8 = torch.finfo(torch.float8_e4m3fn).max
_LEAST_SCALE = 1e-12
"""Of a row of zeros, which is divided by it."""
_OUT_UNIT = 16
"""Kernels have multiples of it of outputs (``_int_mm``: of 8); that of the CPU does not check, but
reads past the weight. So missing ones are padded: a vocabulary has any number of ids."""


class Int8Linear:
    """Weights rounded per output, activations as they are (CPU, without a compiler).

    A drafter's few rows are bound by the reading of weights that the verifier's forward has pushed
    out of the caches: half the bytes, and no lookup per call, make them twice as fast as bfloat16.
    More rows go through oneDNN over the same rounded weights.
    """

    in_unit = 32
    """The kernel takes multiples of it of inputs."""
    _MOST_ROWS = 4

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        scales = (weight.float().abs().amax(dim=1) / _MOST_INT8).clamp_min(_LEAST_SCALE)
        scales = scales.to(torch.bfloat16)
        rounded = (weight.float() / scales.float()[:, None]).round()
        rounded = rounded.clamp(-_MOST_INT8, _MOST_INT8)
        self._weight = rounded.to(torch.int8)
        self._scales = scales
        self._bias = bias
        many = PackedLinear if is_packable(torch.bfloat16) else PlainLinear
        self._many = many((rounded * scales.float()[:, None]).to(torch.bfloat16), bias)
        self.weight_bytes = self._weight.nbytes + self._scales.nbytes + self._many.weight_bytes

    def __call__(self, rows: Tensor) -> Tensor:
        if rows.shape[0] > self._MOST_ROWS:
            return self._many(rows)
        result = torch._weight_int8pack_mm(rows, self._weight, self._scales)
        return result if self._bias is None else result.add_(self._bias)

    def add_to(self, residual: Tensor, rows: Tensor) -> Tensor:
        if rows.shape[0] > self._MOST_ROWS:
            return self._many.add_to(residual, rows)
        return self(rows).add_(residual)


class DynamicInt8Linear:
    """Weights and rows in int8, sums in int32 (GPUs; the CPU has the kernel as well).

    cuBLAS wants more than 16 rows: fewer lie in a buffer of 32, whose other rows are whatever was
    there before, and whose results nobody reads.
    """

    in_unit = 16
    _LEAST_ROWS = 32

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        scales = _scales_of(weight, _MOST_INT8)
        self._weight = (weight / scales).round_().to(torch.int8).t()
        self._scales = scales.t()
        self._bias = (weight.new_zeros(weight.shape[0]) if bias is None else bias).float()
        self._few = self._weight.new_zeros(self._LEAST_ROWS, weight.shape[1])
        self.weight_bytes = self._weight.nbytes + self._scales.nbytes

    def __call__(self, rows: Tensor) -> Tensor:
        return self._product(rows).to(rows.dtype)

    def add_to(self, residual: Tensor, rows: Tensor) -> Tensor:
        return self._product(rows).add_(residual).to(rows.dtype)

    def _product(self, rows: Tensor) -> Tensor:
        """Float32 ``[num_rows, out_features]``, with the bias."""
        num_rows = rows.shape[0]
        scales = _scales_of(rows, _MOST_INT8)
        rounded = (rows / scales).round_()
        if num_rows < self._LEAST_ROWS:
            self._few[:num_rows].copy_(rounded)
            sums = torch._int_mm(self._few, self._weight)[:num_rows]
        else:
            sums = torch._int_mm(rounded.to(torch.int8), self._weight)
        return torch.addcmul(self._bias, sums * scales, self._scales)


class Fp8Linear:
    """Weights and rows in float8 (e4m3), for GPUs from Ada on; the CPU has the kernel as well."""

    in_unit = 16

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        rounded, scales = _to_fp8(weight)
        self._weight = rounded.t()
        self._scales = scales.t()
        self._bias = None if bias is None else bias.to(torch.bfloat16)
        self.weight_bytes = self._weight.nbytes + self._scales.nbytes

    def __call__(self, rows: Tensor) -> Tensor:
        rounded, scales = _to_fp8(rows)
        return torch._scaled_mm(
            rounded,
            self._weight,
            scale_a=scales,
            scale_b=self._scales,
            bias=self._bias,
            out_dtype=torch.bfloat16,
        )

    def add_to(self, residual: Tensor, rows: Tensor) -> Tensor:
        return self(rows).add_(residual)


class CutLinear:
    """Another linear layer, without its last outputs."""

    def __init__(self, inner: Linear, out_features: int) -> None:
        self._inner = inner
        self._out_features = out_features
        self.weight_bytes = inner.weight_bytes

    def __call__(self, rows: Tensor) -> Tensor:
        return self._inner(rows)[:, : self._out_features]

    def add_to(self, residual: Tensor, rows: Tensor) -> Tensor:
        return residual + self(rows)


def make_quantised(weight: Tensor, bias: Tensor | None, quantization: Quantization) -> Linear:
    """The layer in 8 bits, or with the weights as they are where no kernel takes their width.

    Args:
        weight: ``[out_features, in_features]``.
        bias: ``[out_features]`` or None.
        quantization: of which kind.
    """
    kind = _kind(quantization, weight.device)
    out_features, in_features = weight.shape
    if in_features % kind.in_unit:
        return make_linear(weight, bias, exact=False)
    missing = -out_features % _OUT_UNIT
    if not missing:
        return kind(weight, bias)
    padded = None if bias is None else F.pad(bias, (0, missing))
    return CutLinear(kind(F.pad(weight, (0, 0, 0, missing)), padded), out_features)


def check_quantization(quantization: Quantization, device: torch.device, *, exact: bool) -> None:
    """Tries the kernels, which not every GPU has.

    Raises:
        EngineError: the device does not run them, or exact mode is asked for.
    """
    if exact:
        raise EngineError(
            f"quantization: must be none in exact mode, since rounding depends on the number of "
            f"rows, got {quantization.value!r}"
        )
    problem = _problem(quantization, device)
    if problem is not None:
        others = [other.value for other in Quantization if _problem(other, device) is None]
        raise EngineError(
            f"quantization: {quantization.value!r} does not run on {device} ({problem}); accepted "
            f"there: {', '.join(others) or 'none'}"
        )


def _problem(quantization: Quantization, device: torch.device) -> str | None:
    """What the kernel says to the smallest weight; None: it multiplies it."""
    weight = torch.zeros(16, 32, dtype=torch.bfloat16, device=device)
    try:
        _kind(quantization, device)(weight, None)(weight[:1])
    except RuntimeError as error:
        return str(error).splitlines()[0]
    return None


def _kind(
    quantization: Quantization, device: torch.device
) -> type[Int8Linear | DynamicInt8Linear | Fp8Linear]:
    if quantization is Quantization.FP8:
        return Fp8Linear
    return Int8Linear if device.type == "cpu" else DynamicInt8Linear


def _to_fp8(rows: Tensor) -> tuple[Tensor, Tensor]:
    scales = _scales_of(rows, _MOST_FP8)
    return (rows / scales).to(torch.float8_e4m3fn), scales


def _scales_of(rows: Tensor, most: float) -> Tensor:
    """Float32 ``[num_rows, 1]``: divided by it, the largest element of each row is ``most``."""
    largest = torch.linalg.vector_norm(rows, torch.inf, dim=1, keepdim=True, dtype=torch.float32)
    # The least scale plus a share of the largest, in one kernel.
    return torch.rsub(largest, _LEAST_SCALE, alpha=-1 / most)
