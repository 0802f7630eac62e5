"""RMSNorm is transformers' own, however many rows there are."""

import pytest
import torch
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from specrouter_dist.engine.norm import RmsNorm


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("num_rows", [1, 4, 33])
@pytest.mark.parametrize("width", [72, 1024])
def test_it_is_the_norm_of_the_family(dtype: torch.dtype, num_rows: int, width: int) -> None:
    torch.manual_seed(3)
    reference = LlamaRMSNorm(width, eps=1e-2)
    torch.nn.init.normal_(reference.weight, mean=1.0, std=0.3)
    rows = torch.randn(num_rows, width).to(dtype)
    rows[0] *= 1e-2  # so small that eps counts
    norm = RmsNorm(width, 1e-2, dtype, torch.device("cpu"))
    with torch.inference_mode():
        weight = norm.prepare(reference.weight.detach())
        result = norm(rows, weight)
        expected = reference(rows.float())
    assert result.dtype == dtype
    tolerance = 1e-5 if dtype == torch.float32 else 2**-8
    torch.testing.assert_close(result.float(), expected, rtol=tolerance, atol=1e-6)


@pytest.mark.parametrize("width", [288, 1024])  # torch multiplies long and short rows differently
def test_a_row_is_normed_alike_among_any_others(width: int) -> None:
    torch.manual_seed(3)
    rows = torch.randn(64, width)
    norm = RmsNorm(width, 1e-5, torch.bfloat16, torch.device("cpu"))
    weight = norm.prepare(torch.randn(width))
    with torch.inference_mode():
        alone = torch.cat([norm(row, weight).clone() for row in rows.split(1)])
        for size in (4, 5, 64):
            groups = torch.cat([norm(group, weight).clone() for group in rows.split(size)])
            assert torch.equal(groups, alone)
