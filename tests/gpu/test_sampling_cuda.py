"""The shared dice and the sampler on a CUDA device against the CPU."""

from array import array

import numpy as np
import pytest
import torch

from specrouter_dist.config import SamplingParams
from specrouter_dist.engine.interface import Extension
from specrouter_dist.engine.noise_torch import TorchGumbelRows
from specrouter_dist.engine.sampler import Sampler
from specrouter_dist.speculation.noise import GumbelRows

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
CUDA = torch.device("cuda")


def test_a_million_values_are_bit_equal_to_numpy() -> None:
    found = torch.empty(32, 32768, device=CUDA)
    TorchGumbelRows(32768, 32, CUDA).fill(found, 2**64 - 5, 77)
    expected = np.empty((32, 32768), dtype=np.float32)
    GumbelRows(32768, 32).fill(expected, 2**64 - 5, 77)
    assert torch.equal(found.cpu(), torch.from_numpy(expected))


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(temperature=0.0),
        SamplingParams(temperature=0.8, seed=2**63 + 3),
        SamplingParams(temperature=0.9, top_k=50, top_p=0.9, min_p=0.01, seed=4),
        SamplingParams(temperature=1.2, top_p=0.999, seed=5),
        SamplingParams(temperature=0.7, repetition_penalty=1.2, presence_penalty=0.5, seed=6),
        SamplingParams(frequency_penalty=0.3, logit_bias={7: 4.0}, min_tokens=9, seed=7),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_picks_are_those_of_the_cpu(params: SamplingParams, dtype: torch.dtype) -> None:
    params = params.model_copy(update={"stop_token_ids": (7,), "logprobs": 3})
    logits = (torch.randn(40, 4096, generator=torch.Generator().manual_seed(1)) * 3).to(dtype)
    tokens = array("I", [(i * i) % 60 for i in range(40)])
    found = {}
    for device in (torch.device("cpu"), CUDA):
        sampler = Sampler(4096, 2, device)
        sampler.open(0, params, 5)
        extension = Extension(0, 0, tokens, 40, num_runner_ups=4, sparse_rows=(0, 7, 39))
        (picks,) = sampler.draw(logits.to(device), [extension])
        found[device.type] = picks
    assert found["cpu"].tokens == found["cuda"].tokens
    assert found["cpu"].runner_ups == found["cuda"].runner_ups
    rows, same = found["cpu"].sparse_rows, found["cuda"].sparse_rows
    assert rows is not None and same is not None and rows.is_plausible and same.is_plausible
    assert rows.logprobs.ravel().tolist() == pytest.approx(same.logprobs.ravel(), abs=1e-4)
    assert rows.tails.tolist() == pytest.approx(same.tails.tolist(), abs=1e-5)
    for one, other in zip(found["cpu"].logprobs, found["cuda"].logprobs, strict=True):
        assert one.logprob == pytest.approx(other.logprob, abs=1e-4)
