"""Log-probabilities of what stands behind the fed tokens: the prompt's own."""

import math
from array import array
from collections.abc import Sequence

import pytest
import torch

from specrouter_dist.config import Dtype, SamplingParams
from specrouter_dist.engine.fast import FastEngine
from specrouter_dist.engine.general import GeneralEngine
from specrouter_dist.engine.interface import Engine, Extension, TokenLogprobs
from specrouter_dist.engine.toy import ToyEngine
from specrouter_dist.errors import EngineError
from tests.unit.engine.tiny_models import LONG_PROMPT, Load, TinyModel

SCORED = SamplingParams(temperature=0.8, seed=3, prompt_logprobs=3)


def score(
    engine: Engine, text: Sequence[int], chunks: Sequence[int], num_picks: int = 1
) -> tuple[tuple[TokenLogprobs, ...], Sequence[int]]:
    """Of all tokens but the first, fed in pieces of these sizes; and the picks behind the last."""
    slot = engine.open(SCORED, len(text), len(text) + 8)
    found: list[TokenLogprobs] = []
    start, tokens = 0, array("I")
    for size in chunks:
        stop = start + size
        extension = Extension(
            slot,
            start,
            array("I", text[start:stop]),
            num_picks if stop == len(text) else 0,
            followers=text[start + 1 : stop + 1],
        )
        (picks,) = engine.extend([extension])
        found += picks.follower_logprobs
        start, tokens = stop, picks.tokens
    engine.close(slot)
    return tuple(found), tokens


@pytest.mark.parametrize("exact", [True, False])
def test_they_are_those_of_the_model(model: TinyModel, load: Load, exact: bool) -> None:
    found, _ = score(load(exact=exact), LONG_PROMPT, [len(LONG_PROMPT)])
    laws = torch.log_softmax(model.logits(LONG_PROMPT), dim=1)
    assert len(found) == len(LONG_PROMPT) - 1
    for row, token, law in zip(found, LONG_PROMPT[1:], laws, strict=False):
        best = law.topk(3)
        assert row.token == token
        assert row.logprob == pytest.approx(float(law[token]), abs=1e-3)
        assert [i for i, _ in row.top] == best.indices.tolist()
        assert [v for _, v in row.top] == pytest.approx(best.values.tolist(), abs=1e-3)


@pytest.mark.parametrize("dtype", list(Dtype))
def test_exact_ones_do_not_depend_on_how_the_prompt_is_fed(load: Load, dtype: Dtype) -> None:
    engine = load(dtype=dtype)
    whole = score(engine, LONG_PROMPT, [len(LONG_PROMPT)])
    assert score(engine, LONG_PROMPT, [128, 75]) == whole
    assert score(engine, LONG_PROMPT, [1, 3, 60, 70, 69]) == whole


def test_picks_are_those_without(load: Load) -> None:
    engine = load()
    slot = engine.open(SCORED, len(LONG_PROMPT), len(LONG_PROMPT) + 8)
    (plain,) = engine.extend([Extension(slot, 0, LONG_PROMPT, 1)])
    assert plain.follower_logprobs == ()
    assert score(engine, LONG_PROMPT, [len(LONG_PROMPT)])[1] == plain.tokens


def test_other_sessions_of_the_batch_keep_their_rows(load: Load) -> None:
    engine = load()
    text = LONG_PROMPT[:20]
    alone, _ = score(engine, text, [20])
    slots = [engine.open(SCORED, 20, 40) for _ in range(3)]
    before, scored, after = engine.extend(
        [
            Extension(slots[0], 0, LONG_PROMPT[:7], 5),
            Extension(slots[1], 0, text, 1, num_drafts=3, followers=text[1:]),
            Extension(slots[2], 0, text, 1),
        ]
    )
    assert scored.follower_logprobs == alone
    assert (before.follower_logprobs, after.follower_logprobs) == ((), ())
    assert len(scored.tokens) == 4


def test_both_engines_say_the_same(model: TinyModel) -> None:
    found = []
    for kind in (FastEngine, GeneralEngine):
        engine = kind.load(
            model.directory,
            dtype=Dtype.FP32,
            device="cpu",
            context_tokens=None,
            kv_tokens=1024,
            max_sessions=2,
            num_ids=None,
            exact=True,
        )
        found.append(score(engine, LONG_PROMPT, [128, 75])[0])
    for fast, general in zip(*found, strict=True):
        assert fast.token == general.token
        assert fast.logprob == pytest.approx(general.logprob, abs=1e-4)
        assert [i for i, _ in fast.top] == [i for i, _ in general.top]


def test_more_followers_than_tokens_are_refused(load: Load) -> None:
    engine = load()
    slot = engine.open(SCORED, 2, 8)
    with pytest.raises(EngineError, match="followers: at most 2, got 3"):
        engine.extend([Extension(slot, 0, LONG_PROMPT[:2], 1, followers=LONG_PROMPT[:3])])


def test_a_toy_says_what_its_law_says() -> None:
    engine = ToyEngine(model_seed=3)
    text = array("I", [4, 9, 2, 2, 7])
    found, _ = score(engine, text, [2, 3])
    assert [row.token for row in found] == [9, 2, 2, 7]
    for i, row in enumerate(found):
        law = engine.law(text[i - 1] if i else None, text[i])
        expected = law[row.token] - math.log(sum(math.exp(logit) for logit in law))
        assert row.logprob == pytest.approx(expected)
        assert len(row.top) == 3
