"""The sampler against a slow, obvious one in float64, and against its law."""

import math
from array import array
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from specrouter_dist.config import SamplingParams
from specrouter_dist.engine.interface import Extension
from specrouter_dist.engine.sampler import Sampler
from specrouter_dist.speculation.noise import gumbel_row

CPU = torch.device("cpu")


def softmax(row: np.ndarray) -> np.ndarray:
    weights = np.exp(row - row.max())
    return weights / weights.sum()


def shaped(
    logits: np.ndarray, params: SamplingParams, history: Sequence[int], prompt_tokens: int
) -> np.ndarray:
    """Logits of the law that is drawn from, after ``history``; minus infinity where removed."""
    row = logits.astype(np.float64)
    for token, bias in params.logit_bias.items():
        row[token] += bias
    output = list(history[prompt_tokens:])
    for token in set(history):
        if row[token] > 0:
            row[token] /= params.repetition_penalty
        else:
            row[token] *= params.repetition_penalty
    for token in set(output):
        row[token] -= params.frequency_penalty * output.count(token)
        row[token] -= params.presence_penalty
    if params.min_tokens and len(history) - prompt_tokens < params.min_tokens:
        row[[i for i in params.stop_token_ids if i < row.size]] = -np.inf
    if params.greedy:
        return row
    row = row / params.temperature
    if params.min_p > 0:
        law = softmax(row)
        row[law < params.min_p * law.max()] = -np.inf
    if 0 < params.top_k < row.size:
        row[row < np.sort(row)[-params.top_k]] = -np.inf
    if params.top_p < 1:
        law = softmax(row)
        descending = np.sort(law)[::-1]
        last = int((np.cumsum(descending) < params.top_p).sum())
        row[law < descending[min(last, row.size - 1)]] = -np.inf
    return row


def reference_scores(
    logits: np.ndarray, params: SamplingParams, history: Sequence[int], prompt_tokens: int
) -> np.ndarray:
    row = shaped(logits, params, history, prompt_tokens)
    return row if params.greedy else row + gumbel_row(params.seed, len(history), row.size)


def reference_pick(
    logits: np.ndarray, params: SamplingParams, history: Sequence[int], prompt_tokens: int
) -> int | None:
    """None where a rounding error could decide: a near-tie or a threshold nearly met."""
    picks = set()
    for nudge in (-1e-5, 0.0, 1e-5):
        nudged = params.model_copy(
            update={
                "top_p": params.top_p if params.top_p == 1 else params.top_p * (1 + nudge),
                "min_p": min(1.0, params.min_p * (1 + nudge)),
            }
        )
        row = reference_scores(logits, nudged, history, prompt_tokens)
        ordered = np.sort(row)
        if ordered[-1] - ordered[-2] < 1e-4 * max(1.0, abs(ordered[-1])):
            return None
        picks.add(int(row.argmax()))
    return picks.pop() if len(picks) == 1 else None


def params_for(vocab_size: int) -> st.SearchStrategy[SamplingParams]:
    ids = st.integers(0, vocab_size - 1)
    return st.builds(
        SamplingParams,
        max_tokens=st.just(50),
        min_tokens=st.sampled_from([0, 0, 3]),
        temperature=st.sampled_from([0.0, 0.3, 0.8, 1.0, 2.0]),
        top_p=st.sampled_from([1.0, 0.95, 0.6, 0.05]),
        top_k=st.sampled_from([-1, 0, 1, 3, 10]),
        min_p=st.sampled_from([0.0, 0.03, 0.4, 1.0]),
        seed=st.integers(0, 2**64 - 1),
        repetition_penalty=st.sampled_from([1.0, 1.3, 0.7]),
        presence_penalty=st.sampled_from([0.0, 0.5, -1.0]),
        frequency_penalty=st.sampled_from([0.0, 0.4, -0.3]),
        logit_bias=st.dictionaries(ids, st.sampled_from([-100.0, -2.0, 1.5]), max_size=3),
        stop_token_ids=st.tuples(ids, st.just(10_000)),
    )


@st.composite
def steps(draw: st.DrawFn, vocab_size: int) -> list[tuple[int, list[int], int]]:
    """Rollbacks, tokens and picks of consecutive extensions."""
    ids = st.integers(0, vocab_size - 1)
    result = []
    for _ in range(draw(st.integers(1, 5))):
        tokens = draw(st.lists(ids, min_size=1, max_size=5))
        result.append((draw(st.integers(0, 6)), tokens, draw(st.integers(0, len(tokens)))))
    return result


@settings(max_examples=200, deadline=None)
@given(data=st.data(), vocab_size=st.sampled_from([2, 7, 33, 400]), seed=st.integers(0, 10**6))
def test_picks_are_those_of_the_reference_through_rollbacks(
    data: st.DataObject, vocab_size: int, seed: int
) -> None:
    params = data.draw(params_for(vocab_size))
    prompt_tokens = data.draw(st.integers(1, 6))
    sampler = Sampler(vocab_size, 4, CPU)
    sampler.open(2, params, prompt_tokens)
    rng = np.random.default_rng(seed)
    history: list[int] = []
    num_checked = 0
    for rollback, tokens, num_picks in data.draw(steps(vocab_size)):
        start = max(0, len(history) - rollback)
        history = history[:start] + tokens
        logits = (rng.standard_normal((num_picks, vocab_size)) * 3).astype(np.float32)
        extension = Extension(2, start, array("I", tokens), num_picks)
        (picks,) = sampler.draw(torch.from_numpy(logits), [extension])
        assert len(picks.tokens) == num_picks
        for row, token in enumerate(picks.tokens):
            before = history[: len(history) - num_picks + 1 + row]
            expected = reference_pick(logits[row], params, before, prompt_tokens)
            if expected is not None:
                num_checked += 1
                assert token == expected
    assume(num_checked)


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(temperature=1.0),
        SamplingParams(temperature=0.7, top_k=12),
        SamplingParams(temperature=1.4, top_p=0.85),
        SamplingParams(temperature=1.0, min_p=0.1, top_p=0.9, logit_bias={3: 1.0}),
        SamplingParams(temperature=1.0, repetition_penalty=1.5),
    ],
)
def test_draws_follow_the_law_end_to_end(params: SamplingParams) -> None:
    num_draws, vocab_size = 20_000, 40
    logits = np.random.default_rng(5).standard_normal(vocab_size).astype(np.float32) * 1.5
    sampler = Sampler(vocab_size, 1, CPU)
    sampler.open(0, params.model_copy(update={"seed": 11}), 1)
    tokens = array("I", [7]) * num_draws
    rows = torch.from_numpy(logits).expand(num_draws, -1)
    (picks,) = sampler.draw(rows, [Extension(0, 0, tokens, num_draws)])
    law = softmax(shaped(logits, params, [7], 1))
    counts = np.bincount(picks.tokens, minlength=vocab_size)
    assert counts[law == 0].sum() == 0
    possible = law > 0
    expected = law[possible] * num_draws
    statistic = float(((counts[possible] - expected) ** 2 / expected).sum())
    degrees = int(possible.sum()) - 1
    variance = 2.0 / (9.0 * degrees)
    normal = ((statistic / degrees) ** (1.0 / 3.0) - 1.0 + variance) / math.sqrt(variance)
    assert abs(normal) < 4.0
