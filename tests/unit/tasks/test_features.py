"""A prompt as a sparse vector: bounded, of length 1, its last turns first."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from specrouter_dist.tasks.features import EMPTY, WINDOW_TOKENS, Features, Ngrams

_MARK = 3
_NGRAMS = Ngrams(1 << 12, [_MARK])


def similarity(first: Features, second: Features) -> float:
    dense = np.zeros((2, 1 << 12))
    for row, features in zip(dense, (first, second), strict=True):
        row[features.buckets] = features.weights
    return float(dense[0] @ dense[1])


@given(st.lists(st.integers(0, 200_000), max_size=80))
def test_a_vector_has_length_1_or_says_nothing(tokens: list[int]) -> None:
    features = _NGRAMS.of(tokens)
    assert (np.diff(features.buckets) > 0).all()
    length = float(np.linalg.norm(features.weights))
    if set(tokens) <= {_MARK}:
        assert len(features.buckets) == 0 and length == 0
    else:
        assert length == pytest.approx(1.0, abs=1e-5)


def test_only_the_end_of_a_long_prompt_is_looked_at() -> None:
    end = [7 + i % 50 for i in range(WINDOW_TOKENS)]
    whole = _NGRAMS.of([9999] * 100_000 + end)
    assert similarity(whole, _NGRAMS.of(end)) == pytest.approx(1.0, abs=1e-5)


def test_the_last_turn_counts_most_however_long_those_before_were() -> None:
    before, now = [100 + i % 40 for i in range(400)], [500 + i for i in range(30)]
    talk = _NGRAMS.of([_MARK, *before, _MARK, *now, _MARK])
    assert similarity(talk, _NGRAMS.of(now)) > 0.9
    assert 0.1 < similarity(talk, _NGRAMS.of(before)) < 0.5


def test_a_turn_of_few_words_leaves_the_subject_where_it_was() -> None:
    before, thanks = [100 + i % 40 for i in range(400)], [9]
    talk = _NGRAMS.of([*before, _MARK, *thanks])
    assert similarity(talk, _NGRAMS.of(before)) > 0.9


def test_marks_around_a_prompt_change_nothing() -> None:
    prompt = [50, 60, 70, 80]
    plain, chat = _NGRAMS.of(prompt), _NGRAMS.of([_MARK, *prompt, _MARK])
    assert (plain.buckets == chat.buckets).all()
    np.testing.assert_allclose(plain.weights, chat.weights, rtol=1e-6)


def test_order_counts() -> None:
    assert similarity(_NGRAMS.of([1, 2, 4, 5]), _NGRAMS.of([5, 2, 4, 1])) < 0.9
    assert _NGRAMS.of([]) is EMPTY
