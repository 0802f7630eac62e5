from array import array
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from specrouter_dist.config import SamplingParams
from specrouter_dist.engine.interface import Extension, Picks
from specrouter_dist.engine.sampler import Sampler
from specrouter_dist.errors import RequestError

CPU = torch.device("cpu")
VOCAB = 301
ALL_KINDS = [
    SamplingParams(temperature=0.0),
    SamplingParams(temperature=0.8, seed=3),
    SamplingParams(temperature=1.0, seed=2**64 - 1),
    SamplingParams(temperature=0.7, seed=4, top_p=0.9),
    SamplingParams(temperature=1.3, seed=5, top_k=20, min_p=0.02),
    SamplingParams(temperature=0.0, repetition_penalty=1.2, logit_bias={5: 3.0, 9: -1.0}),
    SamplingParams(temperature=0.9, seed=6, presence_penalty=0.7, frequency_penalty=0.3),
    SamplingParams(temperature=1.1, seed=7, min_tokens=4, stop_token_ids=(1, 2), logprobs=3),
]


def random_logits(num_rows: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(num_rows, VOCAB, generator=generator) * 3).to(dtype)


def new_sampler(kinds: Sequence[SamplingParams]) -> Sampler:
    sampler = Sampler(VOCAB, 16, CPU)
    for slot, params in enumerate(kinds):
        sampler.open(slot, params, 3)
    return sampler


@settings(max_examples=80, deadline=None)
@given(
    num_picks=st.lists(st.integers(0, 4), min_size=len(ALL_KINDS), max_size=len(ALL_KINDS)),
    order=st.permutations(range(len(ALL_KINDS))),
    seed=st.integers(0, 10**6),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_rows_drawn_together_and_one_by_one_are_equal(
    num_picks: list[int], order: list[int], seed: int, dtype: torch.dtype
) -> None:
    extensions = [
        Extension(slot, 0, array("I", range(slot, slot + 5)), num_picks[slot]) for slot in order
    ]
    logits = random_logits(sum(num_picks), seed, dtype)
    together = new_sampler(ALL_KINDS).draw(logits, extensions)
    alone = new_sampler(ALL_KINDS)
    row = 0
    for extension, picks in zip(extensions, together, strict=True):
        fed = 5 - extension.num_picks
        if fed:
            prefill = Extension(extension.slot, 0, extension.tokens[:fed], 0)
            assert alone.draw(logits[:0], [prefill]) == [Picks(array("I"))]
        tokens, logprobs = array("I"), []
        for i in range(extension.num_picks):
            one = Extension(extension.slot, fed + i, extension.tokens[fed + i : fed + i + 1], 1)
            (pick,) = alone.draw(logits[row : row + 1], [one])
            tokens += pick.tokens
            logprobs += pick.logprobs
            row += 1
        assert picks == Picks(tokens, tuple(logprobs))


@pytest.mark.parametrize("params", ALL_KINDS)
def test_a_rollback_leaves_no_trace(params: SamplingParams) -> None:
    logits = random_logits(6, 1)
    likely = array("I", logits.topk(4).indices.flatten().tolist())
    clean, rolled = new_sampler([params]), new_sampler([params])
    rolled.draw(logits[:0], [Extension(0, 0, array("I", [1, 2, *likely]), 0)])
    rolled.draw(logits[:4], [Extension(0, 5, likely[:9], 4)])
    rolled.draw(logits[:2], [Extension(0, 2, array("I", [8, 8]), 2)])
    last = Extension(0, 3, array("I", [9, 5, 7, 7, 7, 9]), 6)
    clean.draw(logits[:0], [Extension(0, 0, array("I", [1, 2, 8]), 0)])
    assert rolled.draw(logits, [last]) == clean.draw(logits, [last])


@pytest.mark.parametrize("params", ALL_KINDS)
def test_a_fork_goes_on_like_a_session_with_its_prefix(params: SamplingParams) -> None:
    logits = random_logits(3, 2)
    sampler = new_sampler([params])
    sampler.draw(logits, [Extension(0, 0, array("I", [4, 5, 6, 7, 8]), 3)])
    sampler.fork(0, 9, 4)
    sampler.close(0)
    (forked,) = sampler.draw(logits, [Extension(9, 4, array("I", [1, 1, 5]), 3)])
    fresh = new_sampler([params])
    fresh.draw(logits[:0], [Extension(0, 0, array("I", [4, 5, 6, 7]), 0)])
    (expected,) = fresh.draw(logits, [Extension(0, 4, array("I", [1, 1, 5]), 3)])
    assert forked == expected


def test_a_closed_slot_starts_afresh() -> None:
    params = SamplingParams(temperature=0.0, frequency_penalty=2.0)
    logits = random_logits(1, 3)
    best = int(logits.argmax())
    sampler = new_sampler([params])
    many = Extension(0, 0, array("I", [0, 0, 0, *[best] * 40]), 1)
    assert sampler.draw(logits, [many])[0].tokens[0] != best
    sampler.close(0)
    sampler.open(0, params, 3)
    assert sampler.draw(logits, [Extension(0, 0, array("I", [0]), 1)])[0].tokens[0] == best


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("params", [ALL_KINDS[0], SamplingParams(temperature=0.0, min_tokens=1)])
def test_the_lowest_id_wins_a_tie(params: SamplingParams, dtype: torch.dtype) -> None:
    logits = torch.zeros(2, VOCAB, dtype=dtype)
    logits[0, [17, 200]] = 4.0
    (picks,) = new_sampler([params]).draw(logits, [Extension(0, 0, array("I", [1, 1]), 2)])
    assert picks.tokens.tolist() == [17, 0]


def test_the_logits_are_not_changed() -> None:
    logits = random_logits(len(ALL_KINDS), 4)
    before = logits.clone()
    batch = [Extension(slot, 0, array("I", [5]), 1) for slot in range(len(ALL_KINDS))]
    new_sampler(ALL_KINDS).draw(logits, batch)
    assert torch.equal(logits, before)


def test_logprobs_are_those_of_the_raw_row() -> None:
    logits = random_logits(2, 5)
    params = SamplingParams(temperature=0.5, top_k=1, logit_bias={33: 100.0}, logprobs=4)
    (picks,) = new_sampler([params]).draw(logits, [Extension(0, 0, array("I", [1, 2]), 2)])
    laws = torch.log_softmax(logits.double(), dim=1)
    assert picks.tokens.tolist() == [33, 33]
    for row, found in enumerate(picks.logprobs):
        assert found.token == 33
        assert found.logprob == pytest.approx(float(laws[row, 33]), abs=1e-5)
        best = laws[row].topk(4)
        assert [i for i, _ in found.top] == best.indices.tolist()
        assert [v for _, v in found.top] == pytest.approx(best.values.tolist(), abs=1e-5)


def test_top_p_looks_past_its_first_candidates_when_the_law_is_flat() -> None:
    sampler = Sampler(1000, 1, CPU)
    sampler.open(0, SamplingParams(top_p=0.9, seed=1), 1)
    logits = torch.linspace(1e-3, 0.0, 1000).expand(4000, -1)
    (picks,) = sampler.draw(logits, [Extension(0, 0, array("I", [0]) * 4000, 4000)])
    assert 880 < max(picks.tokens) < 900


def test_tiny_temperatures_are_the_argmax() -> None:
    logits = random_logits(4, 6)
    sampler = new_sampler([SamplingParams(temperature=1e-300, seed=1)])
    (picks,) = sampler.draw(logits, [Extension(0, 0, array("I", [1] * 4), 4)])
    assert picks.tokens.tolist() == logits.argmax(dim=1).tolist()


def test_a_bias_outside_the_vocabulary_is_refused() -> None:
    with pytest.raises(RequestError, match="logit_bias: ids must be below 301, got 301"):
        new_sampler([SamplingParams(logit_bias={301: 1.0})])


def test_rows_and_picks_must_match() -> None:
    with pytest.raises(AssertionError, match="2 rows of logits for 1 picks"):
        new_sampler(ALL_KINDS[:1]).draw(random_logits(2, 1), [Extension(0, 0, array("I", [1]), 1)])
