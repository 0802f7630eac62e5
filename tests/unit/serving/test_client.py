"""What a request becomes on its way to the target."""

from array import array

import pytest

from specrouter_dist.config import SamplingParams
from specrouter_dist.pools.loading import POOLS_DIRECTORY
from specrouter_dist.serving.client import Generation
from specrouter_dist.serving.results import GenerateRequest
from specrouter_dist.speculation.messages import TOKEN_TYPECODE
from specrouter_dist.text.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.load(POOLS_DIRECTORY / "tiny" / "target")


def test_all_that_the_worker_needs_to_know_is_told(tokenizer: Tokenizer) -> None:
    sampling = SamplingParams(temperature=0.8, seed=3, stop_token_ids=(9,))
    prompt = array(TOKEN_TYPECODE, (1, 2))
    request = GenerateRequest(prompt, sampling, task="maths")
    submit = Generation(request, tokenizer, frozenset({5}), None).submit
    assert (submit.prompt, submit.task, submit.plan) == (prompt, "maths", None)
    assert submit.sampling.stop_token_ids == (5, 9)
    assert submit.sampling.seed == 3
