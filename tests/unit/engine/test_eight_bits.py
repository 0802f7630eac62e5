"""Layers in 8 bits: those of the weights within their rounding, on the CPU the GPU's as well."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from specrouter_dist.config import Dtype, Quantization, SamplingParams
from specrouter_dist.engine import eight_bits
from specrouter_dist.engine.eight_bits import (
    CutLinear,
    DynamicInt8Linear,
    Fp8Linear,
    Int8Linear,
    make_quantised,
)
from specrouter_dist.engine.interface import Extension
from tests.unit.engine.fast_models import load, logged_logits, save, small, text

ROUNDINGS = {Int8Linear: 0.03, DynamicInt8Linear: 0.04, Fp8Linear: 0.08}
"""Largest error, as a share of the largest output, for 96 inputs: half a step of 127 of the
weights, of the rows, too, and half a step of 16 of both."""
KINDS = list(ROUNDINGS)
GREEDY = SamplingParams(temperature=0.0)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(5)


def bf16(*shape: int) -> Tensor:
    return torch.randn(*shape).bfloat16()


def error(found: Tensor, wanted: Tensor) -> float:
    """Of the largest element."""
    return float((found.float() - wanted).abs().max() / wanted.abs().max())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("num_rows", [1, 4, 5, 17, 31, 32, 64])
def test_it_is_the_layer_within_its_rounding(kind: Any, with_bias: bool, num_rows: int) -> None:
    weight, rows, residual = bf16(48, 96), bf16(num_rows, 96), bf16(num_rows, 48)
    bias = 30 * bf16(48) if with_bias else None
    product = rows.float() @ weight.float().t()
    wanted = product if bias is None else product + bias.float()
    linear = kind(weight, bias)
    with torch.inference_mode():
        before = residual.clone()
        for found, expected in (
            (linear(rows), wanted),
            (linear.add_to(residual, rows), residual.float() + wanted),
        ):
            assert found.dtype == torch.bfloat16
            # What is left of the bias and the residual is their rounding, to 8 bits of mantissa.
            allowed = ROUNDINGS[kind] * product.abs().max() + 2**-8 * expected.abs().max()
            assert (found.float() - expected).abs().max() < allowed
        assert torch.equal(residual, before)


@pytest.mark.parametrize("kind", KINDS)
def test_each_output_and_each_row_has_a_scale_of_its_own(kind: Any) -> None:
    sizes = torch.tensor([1e-3, 1.0, 1e3])
    weight = (torch.randn(48, 96) * sizes.repeat(16)[:, None]).bfloat16()
    rows = (torch.randn(6, 96) * sizes.repeat(2)[:, None]).bfloat16()
    with torch.inference_mode():
        found = kind(weight, None)(rows)
    wanted = rows.float() @ weight.float().t()
    for row in range(3):
        for output in range(3):
            pair = (slice(row, None, 3), slice(output, None, 3))
            assert error(found[pair], wanted[pair]) < 2 * ROUNDINGS[kind]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_rows", [3, 40])
def test_rows_and_weights_of_zeros_give_the_bias(kind: Any, num_rows: int) -> None:
    weight, rows, bias = bf16(48, 96), bf16(num_rows, 96), bf16(48)
    weight[7] = 0.0
    rows[1] = 0.0
    with torch.inference_mode():
        found = kind(weight, bias)(rows)
    assert found.isfinite().all()
    assert torch.equal(found[1], bias)
    assert torch.equal(found[:, 7], bias[7].expand(num_rows))


@pytest.mark.parametrize("kind", [DynamicInt8Linear, Fp8Linear])
def test_rows_do_not_depend_on_each_other(kind: Any) -> None:
    linear, rows = kind(bf16(48, 96), None), bf16(40, 96)
    with torch.inference_mode():
        alone = torch.cat([linear(row[None]) for row in rows])
        assert error(linear(rows), alone.float()) < 0.005


@pytest.mark.parametrize("kind", KINDS)
def test_one_byte_a_weight(kind: Any) -> None:
    scales = 2 if kind is Int8Linear else 4
    copies = 3 if kind is Int8Linear else 1
    assert kind(bf16(48, 96), None).weight_bytes == copies * 48 * 96 + scales * 48


def test_int8_needs_no_packed_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eight_bits, "is_packable", lambda dtype: False)
    weight, rows = bf16(48, 96), bf16(9, 96)
    with torch.inference_mode():
        found = Int8Linear(weight, None)(rows)
    assert error(found, rows.float() @ weight.float().t()) < ROUNDINGS[Int8Linear]


@pytest.mark.parametrize("quantization", Quantization)
def test_missing_outputs_are_padded_and_cut_off(quantization: Quantization) -> None:
    weight, rows, bias = bf16(47, 96), bf16(3, 96), bf16(47)
    residual = bf16(3, 47)
    linear = make_quantised(weight, bias, quantization)
    assert isinstance(linear, CutLinear)
    wanted = rows.float() @ weight.float().t() + bias.float()
    with torch.inference_mode():
        assert linear(rows).shape == (3, 47)
        assert error(linear(rows), wanted) < 0.08
        assert error(linear.add_to(residual, rows), residual.float() + wanted) < 0.08


@pytest.mark.parametrize("quantization", Quantization)
def test_a_width_that_no_kernel_takes_is_not_rounded(quantization: Quantization) -> None:
    weight, rows = bf16(48, 90), bf16(3, 90)
    linear = make_quantised(weight, None, quantization)
    with torch.inference_mode():
        assert error(linear(rows), rows.float() @ weight.float().t()) < 0.01


def test_which_kernels_a_device_has() -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    kinds = {
        (quantization, device.type): eight_bits._kind(quantization, device)
        for quantization in Quantization
        for device in (cpu, cuda)
    }
    assert kinds == {
        ("int8", "cpu"): Int8Linear,
        ("int8", "cuda"): DynamicInt8Linear,
        ("fp8", "cpu"): Fp8Linear,
        ("fp8", "cuda"): Fp8Linear,
    }


def logits_of(directory: Path, **changes: Any) -> Tensor:
    """Of every position of a text, fed in blocks of 40, 1, 4 and 19."""
    engine = load(directory, exact=False, dtype=Dtype.BF16, num_ids=119, **changes)
    tokens = text(119, 64)
    slot = engine.open(GREEDY, 1, 64)
    start = 0
    with logged_logits() as log:
        for size in (40, 1, 4, 19):
            engine.extend([Extension(slot, start, tokens[start : start + size], size)])
            start += size
    return log.of(slot, 64)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("model")
    save(small(hidden_size=128, intermediate_size=192, attention_bias=True), directory)
    return directory


@pytest.mark.parametrize("kind", KINDS)
def test_a_whole_model_agrees_with_the_one_in_bf16(
    kind: Any, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(eight_bits, "_kind", lambda quantization, device: kind)
    wanted = logits_of(saved)
    found = logits_of(saved, quantization=Quantization.FP8)
    assert not torch.equal(found, wanted)
    agreeing = (found.argmax(dim=1) == wanted.argmax(dim=1)).float().mean()
    assert agreeing > 0.75
    assert (found - wanted).abs().mean() < 2 * ROUNDINGS[kind] * wanted.abs().mean()
