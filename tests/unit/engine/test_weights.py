"""How likely tokens are under a model's law before temperature."""

import math
from array import array

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from specrouter_dist.config import SamplingParams
from specrouter_dist.engine.interface import Extension
from specrouter_dist.engine.sampler import Sampler
from specrouter_dist.engine.toy import ToyEngine
from specrouter_dist.speculation.messages import TOKEN_TYPECODE
from tests.unit.engine.test_sampler import ALL_KINDS, CPU, VOCAB, random_logits

FED = array(TOKEN_TYPECODE, (5, 9, 5, 7, 11, 9))
NUM_PICKS = 4


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(ALL_KINDS),
    weighed=st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=NUM_PICKS),
    seed=st.integers(0, 10**6),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_weights_are_of_the_law_that_temperature_0_takes_the_best_of(
    kind: SamplingParams, weighed: list[int], seed: int, dtype: torch.dtype
) -> None:
    logits = random_logits(NUM_PICKS, seed, dtype)
    sampler = Sampler(VOCAB, 4, CPU)
    sampler.open(0, kind, 3)
    (picks,) = sampler.draw(logits, [Extension(0, 0, FED, NUM_PICKS, weighed=weighed)])
    greedy = Sampler(VOCAB, 4, CPU)
    greedy.open(0, kind.model_copy(update={"temperature": 0.0}), 3)
    (best,) = greedy.draw(logits, [Extension(0, 0, FED, NUM_PICKS, weighed=weighed)])
    plain = Sampler(VOCAB, 4, CPU)
    plain.open(0, kind, 3)
    assert picks.tokens == plain.draw(logits, [Extension(0, 0, FED, NUM_PICKS)])[0].tokens
    assert len(picks.weights) == len(weighed)
    for i, weight in enumerate(picks.weights):
        assert weight.best >= max(weight.token, weight.pick)
        assert (weight.token, weight.best) == (best.weights[i].token, best.weights[i].best)
        assert best.weights[i].pick == best.weights[i].best
        if weighed[i] == best.tokens[i]:
            assert weight.token == weight.best
        if kind == ALL_KINDS[0]:
            law = torch.log_softmax(logits[i].double(), dim=0)
            assert weight.token == pytest.approx(law[weighed[i]].item(), abs=1e-4)


def test_what_may_not_be_drawn_has_no_weight() -> None:
    sampler = Sampler(VOCAB, 4, CPU)
    sampler.open(0, SamplingParams(min_tokens=2, stop_token_ids=(4,), temperature=0.0), 3)
    fed = array(TOKEN_TYPECODE, (1, 2, 3))
    (picks,) = sampler.draw(random_logits(1, 3), [Extension(0, 0, fed, 1, weighed=[4])])
    assert picks.weights[0].token == -math.inf


def test_toys_weigh_too() -> None:
    toy = ToyEngine(8)
    slot = toy.open(SamplingParams(temperature=0.0), 2, 10)
    fed = array(TOKEN_TYPECODE, (1, 2, 3))
    (picks,) = toy.extend([Extension(slot, 0, fed, 2, weighed=[5, 6])])
    for weight, token, pick, context in zip(
        picks.weights, (5, 6), picks.tokens, ((1, 2), (2, 3)), strict=True
    ):
        law = np.exp(toy.law(*context))
        wanted = np.log(law / law.sum())[[token, pick]]
        assert (weight.token, weight.pick) == pytest.approx(tuple(wanted))
        assert weight.best == weight.pick
