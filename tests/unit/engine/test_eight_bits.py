"""Layers in 8 bits: those of the weights within their rounding, on the CPU the GPU's as well."""

import json
from array import array
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
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
from specrouter_dist.pools.loading import POOLS_DIRECTORY
from specrouter_dist.speculation.messages import TOKEN_TYPECODE
from tests.unit.engine.fast_models import load, logged_logits

ROUNDINGS = {Int8Linear: 0.03, DynamicInt8Linear: 0.04, Fp8Linear: 0.08}
"""Largest error, as a share of the largest output, for 96 inputs: half a step of 127 of the
weights, of the rows, too, and half a step of 16 of both."""
KINDS = list(ROUNDINGS)


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


def check_int_mm(rows: Tensor, weight: Tensor) -> None:
    """What CUDA asks of ``_int_mm`` (torch's ``cuda/Blas.cpp``), in the layout that is fast."""
    assert rows.dtype == weight.dtype == torch.int8
    assert rows.shape[0] > 16
    assert rows.shape[1] % 8 == weight.shape[1] % 8 == 0
    assert rows.is_contiguous() and weight.t().is_contiguous()


def check_scaled_mm(rows: Tensor, weight: Tensor, **options: Any) -> None:
    """What CUDA asks of ``_scaled_mm`` with a scale per row (torch's ``cuda/ScaledBlas.cpp``)."""
    assert rows.dtype == weight.dtype == torch.float8_e4m3fn
    assert rows.shape[1] % 16 == weight.shape[1] % 16 == 0
    assert rows.is_contiguous() and weight.t().is_contiguous()
    scales, weight_scales = options["scale_a"], options["scale_b"]
    assert scales.dtype == weight_scales.dtype == torch.float32
    assert scales.shape == (rows.shape[0], 1) and weight_scales.shape == (1, weight.shape[1])
    assert scales.stride(0) == weight_scales.stride(1) == 1
    assert options["bias"] is None or options["bias"].dtype == torch.bfloat16
    assert options["out_dtype"] == torch.bfloat16


@pytest.mark.parametrize(
    ("kind", "name", "check"),
    [(DynamicInt8Linear, "_int_mm", check_int_mm), (Fp8Linear, "_scaled_mm", check_scaled_mm)],
)
@pytest.mark.parametrize("num_rows", [1, 4, 17, 64])
@pytest.mark.parametrize("out_features", [47, 48])
def test_the_kernels_are_called_as_cuda_wants_it(
    kind: Any, name: str, check: Any, num_rows: int, out_features: int, monkeypatch: Any
) -> None:
    multiply, calls = getattr(torch, name), []

    def checked(*operands: Tensor, **options: Any) -> Tensor:
        check(*operands, **options)
        calls.append(operands)
        product: Tensor = multiply(*operands, **options)
        return product

    monkeypatch.setattr(torch, name, checked)
    monkeypatch.setattr(eight_bits, "_kind", lambda quantization, device: kind)
    linear = make_quantised(bf16(out_features, 96), bf16(out_features), Quantization.FP8)
    with torch.inference_mode():
        linear.add_to(bf16(num_rows, out_features), bf16(num_rows, 96))
    assert len(calls) == 1


TARGET = POOLS_DIRECTORY / "tiny" / "target"
AGREEMENTS = {Int8Linear: 0.95, DynamicInt8Linear: 0.93, Fp8Linear: 0.85}


@pytest.fixture(scope="module")
def tokens() -> "array[int]":
    """The start of some texts of the kinds that the embedded target has learnt."""
    lines = (POOLS_DIRECTORY / "prompts" / "calibration.jsonl").read_text().splitlines()
    prompts = "\n".join(json.loads(line)["prompt"] for line in lines[:8])
    tokenizer = Tokenizer.from_file(str(TARGET / "tokenizer.json"))
    return array(TOKEN_TYPECODE, tokenizer.encode(prompts).ids[:400])


def logits_of(tokens: "array[int]", **changes: Any) -> Tensor:
    """The embedded target's, of every position, fed in blocks of 100, 1, 4 and the rest."""
    engine = load(TARGET, exact=False, dtype=Dtype.BF16, **changes)
    slot = engine.open(SamplingParams(temperature=0.0), 1, len(tokens))
    start = 0
    with logged_logits() as log:
        for size in (100, 1, 4, len(tokens) - 105):
            engine.extend([Extension(slot, start, tokens[start : start + size], size)])
            start += size
    return log.of(slot, len(tokens))


@pytest.fixture(scope="module")
def wanted(tokens: "array[int]") -> Tensor:
    return logits_of(tokens)


@pytest.mark.parametrize("kind", KINDS)
def test_a_whole_model_agrees_with_the_one_in_bf16(
    kind: Any, tokens: "array[int]", wanted: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(eight_bits, "_kind", lambda quantization, device: kind)
    found = logits_of(tokens, quantization=Quantization.FP8)
    assert not torch.equal(found, wanted)
    agreeing = (found.argmax(dim=1) == wanted.argmax(dim=1)).float().mean()
    assert agreeing > AGREEMENTS[kind]


def test_compiled_it_agrees_as_well(tokens: "array[int]", wanted: Tensor) -> None:
    found = logits_of(tokens, quantization=Quantization.INT8)
    assert not torch.equal(found, wanted)
    agreeing = (found.argmax(dim=1) == wanted.argmax(dim=1)).float().mean()
    assert agreeing > AGREEMENTS[Int8Linear]
