"""Layers and a whole model in 8 bits on a CUDA device against bf16, in a graph as well. No Ray."""

from array import array
from typing import Any

import pytest
import torch
from torch import Tensor

from specrouter_dist.config import Dtype, Quantization, SamplingParams
from specrouter_dist.engine.eight_bits import check_quantization, make_quantised
from specrouter_dist.engine.interface import Extension
from specrouter_dist.errors import EngineError
from specrouter_dist.pools.loading import POOLS_DIRECTORY
from specrouter_dist.speculation.messages import TOKEN_TYPECODE
from tests.unit.engine.fast_models import load

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
CUDA = torch.device("cuda")
TARGET = POOLS_DIRECTORY / "tiny" / "target"


@pytest.fixture(params=Quantization)
def quantization(request: pytest.FixtureRequest) -> Quantization:
    """Each that the device runs; a GPU before Ada must refuse fp8, naming int8."""
    asked: Quantization = request.param
    if asked is Quantization.FP8 and torch.cuda.get_device_capability() < (8, 9):
        with pytest.raises(EngineError, match=r"^quantization: 'fp8' .* accepted there: int8$"):
            check_quantization(asked, CUDA, exact=False)
        pytest.skip("no kernel for fp8, refused as it should be")
    return asked


def bf16(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))).bfloat16()


@pytest.mark.parametrize("num_rows", [1, 4, 5, 17, 64, 300])
@pytest.mark.parametrize("out_features", [768, 1001])
def test_a_layer_is_that_of_the_cpu(
    quantization: Quantization, num_rows: int, out_features: int
) -> None:
    weight, rows, bias = bf16(out_features, 288), bf16(num_rows, 288), bf16(out_features)
    residual = bf16(num_rows, out_features)
    rows[0] = 0.0
    wanted = rows.float() @ weight.float().t() + bias.float()
    with torch.inference_mode():
        linear = make_quantised(weight.to(CUDA), bias.to(CUDA), quantization)
        found = linear(rows.to(CUDA)).cpu().float()
        added = linear.add_to(residual.to(CUDA), rows.to(CUDA)).cpu().float()
    assert torch.equal(found[0], bias.float())
    assert (found - wanted).abs().max() < 0.08 * wanted.abs().max()
    wanted += residual.float()
    assert (added - wanted).abs().max() < 0.08 * wanted.abs().max()


@pytest.mark.parametrize("num_rows", [1, 4, 40])
def test_a_graph_holds_a_layer(quantization: Quantization, num_rows: int) -> None:
    linear = make_quantised(bf16(768, 288).to(CUDA), None, quantization)
    rows, residual = bf16(num_rows, 288).to(CUDA), bf16(num_rows, 768).to(CUDA)
    graph = torch.cuda.CUDAGraph()
    with torch.inference_mode():
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            linear.add_to(residual, rows)
        torch.cuda.synchronize()
        with torch.cuda.graph(graph):
            found = linear.add_to(residual, rows)
        rows.copy_(bf16(num_rows + 1, 288)[1:])
        graph.replay()
        assert torch.equal(found, linear.add_to(residual, rows))


def test_a_whole_model_agrees_with_the_one_in_bf16(quantization: Quantization) -> None:
    """The embedded target, on a text that it has written."""
    options: dict[str, Any] = {"exact": False, "dtype": Dtype.BF16, "device": "cuda"}
    engine = load(TARGET, **options)
    greedy = SamplingParams(temperature=0.0)
    slot = engine.open(greedy, 1, 128)
    (picks,) = engine.extend([Extension(slot, 0, array(TOKEN_TYPECODE, [5]), 1, num_drafts=119)])
    tokens = array(TOKEN_TYPECODE, [5]) + picks.tokens

    def picked(**changes: Any) -> list[int]:
        engine = load(TARGET, **options, **changes)
        slot, start, found = engine.open(greedy, 1, 128), 0, []
        for size in (80, 1, 4, len(tokens) - 85):
            part = tokens[start : start + size]
            found += engine.extend([Extension(slot, start, part, size)])[0].tokens
            start += size
        return found

    pairs = list(zip(picked(quantization=quantization), picked(), strict=True))
    assert sum(one == other for one, other in pairs) > 0.85 * len(pairs)
