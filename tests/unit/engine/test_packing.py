"""Weights as the compiled decoder reads them, and what it computes with them."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from specrouter_dist.config import Quantization
from specrouter_dist.engine.cpu import library as c
from specrouter_dist.engine.cpu.library import BLOCK_INS, find_library
from specrouter_dist.engine.cpu.packing import PackedLinear, Packing


def pack(weight: Tensor, quantization: Quantization | None = None) -> PackedLinear:
    """As the library wants it."""
    built = find_library()
    assert built is not None
    return Packing(built.panel_outs, quantization).linear(weight, None)


def unpacked(packed: PackedLinear) -> Tensor:
    """What the whole numbers stand for."""
    assert packed.scales is not None
    pairs = packed.panels.transpose(1, 2)
    whole = pairs.reshape(len(packed.scales), -1)[: packed.num_outs, : packed.num_ins]
    return whole * packed.scales[: packed.num_outs, None]


def multiplied(packed: PackedLinear, x: Tensor, num_threads: int = 1) -> Tensor:
    """By the library, ``x`` with a root mean square of 1."""
    built = find_library()
    assert built is not None
    ones = torch.ones(packed.num_ins)
    model = c.Model(
        hidden=packed.num_ins, norm_eps=1e-12, last_norm=ones.data_ptr(), head=packed.matrix()
    )
    index, found = torch.arange(len(x), dtype=torch.int32), torch.empty(len(x), packed.num_outs)
    built.logits(model, x.data_ptr(), index.data_ptr(), len(x), found.data_ptr(), num_threads)
    return found


def normed(x: Tensor) -> Tensor:
    return x / x.square().mean(1, keepdim=True).sqrt()


def test_pairs_of_inputs_lie_side_by_side() -> None:
    weight = torch.arange(40 * 3).view(40, 3).bfloat16()
    packed = Packing(32).linear(weight, None)
    assert packed.panels.shape == (2, 2, 32, 2) and packed.panels.dtype == torch.int16
    assert packed.scales is not None
    scale = packed.scales[17]
    assert torch.equal(packed.panels[0, 0, 17] * scale, weight[17, :2].float())
    assert torch.equal(packed.panels[0, 1, 17] * scale, torch.tensor([weight[17, 2], 0.0]))
    assert not packed.panels[1, :, 8:].any()


@given(st.integers(0, 2**32), st.integers(1, 70), st.sampled_from([1e-30, 1e-3, 1.0, 1e30]))
@settings(deadline=None)
def test_weights_are_what_they_were_but_for_small_ones(
    seed: int, num_ins: int, size: float
) -> None:
    rng = torch.Generator().manual_seed(seed)
    weight = (torch.randn(5, num_ins, generator=rng) ** 3 * size).bfloat16()
    found, largest = unpacked(pack(weight)), weight.float().abs().amax(1)[:, None]
    is_small = weight.float().abs() < largest / 32
    assert torch.equal(found[~is_small], weight.float()[~is_small])
    assert ((found - weight.float()).abs() <= largest * 2.0**-13).all()


def error(found: Tensor, weight: Tensor, x: Tensor) -> float:
    """Root mean square, of the sum of the products' sizes."""
    weight, x = weight.double(), x.double()
    sizes = x.abs() @ weight.abs().T
    return ((found - x @ weight.T) / sizes).square().mean().sqrt().item()


@pytest.mark.parametrize("num_ins", [1, 63, 64, 65, 200])
@pytest.mark.parametrize("num_rows", [1, 2, 9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_products_are_those_of_floats(dtype: torch.dtype, num_rows: int, num_ins: int) -> None:
    """Of bfloat16 weights ten times as near as those of bfloat16 inputs."""
    torch.manual_seed(num_ins)
    weight, x = torch.randn(77, num_ins).to(dtype), normed(torch.randn(num_rows, num_ins))
    found = error(multiplied(pack(weight), x, num_threads=2), weight, x)
    if dtype == torch.float32:
        assert found < 1e-6
    else:
        assert found < 3e-5
        rounded = x.bfloat16().double() @ weight.double().T
        assert num_ins == 1 or found < 0.1 * error(rounded, weight, x)


@pytest.mark.parametrize("num_ins", [1, 63, 64, 65, 200])
@pytest.mark.parametrize("num_rows", [1, 2, 9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_in_8_bits_products_are_those_of_the_rounded_weights(
    dtype: torch.dtype, num_rows: int, num_ins: int
) -> None:
    torch.manual_seed(num_ins)
    sizes = torch.tensor([1e-3, 1.0, 1e3, 1.0, 0.0]).repeat(16)[:77, None]
    weight, x = (torch.randn(77, num_ins) * sizes).to(dtype), normed(torch.randn(num_rows, num_ins))
    packed = pack(weight, Quantization.INT8)
    assert packed.panels.dtype == torch.int8
    rounded, steps = unpacked(packed), weight.float().abs().amax(1)[:, None] / 127
    assert ((rounded - weight.float()).abs() <= 0.501 * steps).all()
    found, is_any = multiplied(packed, x, num_threads=2), sizes[:, 0] > 0
    assert error(found[:, is_any], rounded[is_any], x) < 3e-5
    assert not found[:, ~is_any].any()


@pytest.mark.parametrize("quantization", [None, Quantization.INT8])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_largest_sums_have_room(sign: float, quantization: Quantization | None) -> None:
    """All weights and all inputs as large as they can be."""
    num_ins = 2 * BLOCK_INS
    weight = torch.full((3, num_ins), sign).bfloat16()
    found = multiplied(pack(weight, quantization), torch.ones(2, num_ins))
    assert torch.allclose(found, torch.full((2, 3), sign * num_ins), rtol=1e-3)


@pytest.mark.parametrize("x", [torch.zeros(1, 70), torch.full((1, 70), 1e-36)])
def test_inputs_of_nothing_make_nothing(x: Tensor) -> None:
    assert not multiplied(pack(torch.ones(3, 70).bfloat16()), x).any()


@pytest.mark.parametrize("quantization", [None, Quantization.INT8])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_stays_none(value: float, quantization: Quantization | None) -> None:
    """Of inputs and of weights, wherever it is."""
    torch.manual_seed(3)
    for at in range(70):
        weight, x = torch.randn(33, 70).bfloat16(), torch.randn(2, 70)
        weight[32, at] = value
        found = multiplied(pack(weight, quantization), x)
        assert found[:, 32].isnan().all() and found[:, :32].isfinite().all()
        x[1, at] = value
        found = multiplied(pack(weight, quantization), x)
        assert found[1].isnan().all() and found[0, :32].isfinite().all()


def test_gates_and_ups_fill_whole_panels() -> None:
    weight = torch.arange(1.0, 81.0).view(80, 1)
    packing = Packing(32)
    padded = packing.pad_halves(weight)
    assert padded.shape == (128, 1)
    assert torch.equal(padded[64:104], weight[40:]) and not padded[40:64].any()
    assert torch.equal(packing.pad_halves(weight[:, 0]), padded[:, 0])
