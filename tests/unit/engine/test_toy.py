import subprocess
import sys
from array import array
from collections.abc import Sequence

import numpy as np
import pytest

from specrouter_dist.config import SamplingParams
from specrouter_dist.engine.interface import Extension, Picks
from specrouter_dist.engine.toy import ToyEngine
from specrouter_dist.errors import EngineError, NoRoomError
from specrouter_dist.speculation.noise import gumbel_row

GREEDY = SamplingParams(temperature=0.0)
WARM = SamplingParams(temperature=0.8, seed=2**63 + 5)


def feed(
    engine: ToyEngine, slot: int, start: int, tokens: Sequence[int], picks: int, drafts: int = 0
) -> Picks:
    return engine.extend([Extension(slot, start, array("I", tokens), picks, drafts)])[0]


def generate(engine: ToyEngine, sampling: SamplingParams, prompt: list[int], num: int) -> list[int]:
    slot = engine.open(sampling, len(prompt), len(prompt) + num)
    tokens = list(prompt)
    while len(tokens) < len(prompt) + num:
        start = len(engine.cached(slot))
        tokens += feed(engine, slot, start, tokens[start:], 1).tokens
    engine.close(slot)
    return tokens[len(prompt) :]


@pytest.mark.parametrize("sampling", [GREEDY, WARM])
def test_steps_verifies_and_drafts_give_the_same_tokens(sampling: SamplingParams) -> None:
    engine = ToyEngine(model_seed=3)
    prompt = [1, 2, 3]
    alone = generate(engine, sampling, prompt, 30)
    slot = engine.open(sampling, 3, 33)
    verified = feed(engine, slot, 0, prompt + alone[:-1], 30)
    assert verified.tokens.tolist() == alone
    drafted = feed(engine, slot, 2, prompt[2:], 1, 29)
    assert drafted.tokens.tolist() == alone
    assert engine.cached(slot) == prompt + alone[:-1]


def test_a_pick_is_the_argmax_of_law_and_shared_noise() -> None:
    engine = ToyEngine(model_seed=3)
    slot = engine.open(WARM, 2, 10)
    picks = feed(engine, slot, 0, [4, 9], 2)
    noise = [gumbel_row(WARM.seed, position, 24) for position in (1, 2)]
    laws = [engine.law(None, 4), engine.law(4, 9)]
    expected = [int((law / 0.8 + g).argmax()) for law, g in zip(laws, noise, strict=True)]
    assert picks.tokens.tolist() == expected


def test_a_smaller_start_rolls_back_and_cached_shows_what_was_fed() -> None:
    engine = ToyEngine()
    slot = engine.open(GREEDY, 4, 20)
    feed(engine, slot, 0, [1, 2, 3, 4, 5, 6], 0)
    feed(engine, slot, 3, [9], 1)
    assert engine.cached(slot) == [1, 2, 3, 9]
    copy = engine.fork(slot, 2)
    assert engine.cached(copy) == [1, 2]
    feed(engine, copy, 2, [7], 0)
    assert engine.cached(slot) == [1, 2, 3, 9]


def test_drafting_ends_at_a_stop_token_which_is_not_fed() -> None:
    engine = ToyEngine(model_seed=1)
    free = generate(engine, WARM, [5, 6], 40)
    stop = free[12]
    first = free.index(stop)
    sampling = WARM.model_copy(update={"stop_token_ids": (stop,)})
    slot = engine.open(sampling, 2, 60)
    picks = feed(engine, slot, 0, [5, 6], 1, 40)
    assert picks.tokens.tolist() == free[: first + 1]
    assert engine.cached(slot) == [5, 6, *free[:first]]


def test_min_tokens_keeps_stop_tokens_away() -> None:
    engine = ToyEngine(vocab_size=4)
    sampling = SamplingParams(seed=1, max_tokens=40, min_tokens=10, stop_token_ids=(0, 1))
    tokens = generate(engine, sampling, [2], 40)
    assert not {0, 1} & set(tokens[:10])
    assert {0, 1} & set(tokens[10:])


def test_logprobs_are_those_of_the_law_before_temperature() -> None:
    engine = ToyEngine(vocab_size=20)
    slot = engine.open(SamplingParams(temperature=0.3, logprobs=20), 1, 10)
    picks = feed(engine, slot, 0, [3], 1)
    law = engine.law(None, 3)
    expected = law - np.log(np.exp(law).sum())
    (found,) = picks.logprobs
    assert found.token == picks.tokens[0]
    assert found.logprob == pytest.approx(expected[found.token])
    assert [i for i, _ in found.top] == np.argsort(-law, kind="stable").tolist()
    assert sum(np.exp(value) for _, value in found.top) == pytest.approx(1.0)


@pytest.mark.parametrize("agreement", [0.0, 0.5, 0.9, 1.0])
def test_agreement_is_the_fraction_of_contexts_with_the_shared_law(agreement: float) -> None:
    base = ToyEngine(vocab_size=32, agreement=1.0, language=7)
    toy = ToyEngine(vocab_size=32, agreement=agreement, language=7, model_seed=4)
    contexts = [(a, b) for a in range(32) for b in range(32)]
    shared = np.mean([np.array_equal(base.law(*c), toy.law(*c)) for c in contexts])
    assert shared == pytest.approx(agreement, abs=0.05)


def test_other_languages_and_other_toys_have_other_laws() -> None:
    law = ToyEngine().law(1, 2)
    assert not np.array_equal(law, ToyEngine(language=1).law(1, 2))
    one, other = (ToyEngine(agreement=0.0, model_seed=s).law(1, 2) for s in (1, 2))
    assert not np.array_equal(one, other)


@pytest.mark.parametrize(
    ("extension", "message"),
    [
        (Extension(0, 4, array("I", [1]), 1), "leaves a gap"),
        (Extension(0, 3, array("I"), 0), "at least one token"),
        (Extension(0, 3, array("I", [1]), 2), "more picks"),
        (Extension(0, 3, array("I", [1]), 0, 1), "drafts follow"),
        (Extension(0, 3, array("I", [24]), 1), "out of range"),
        (Extension(0, 3, array("I", [1] * 8), 1), "reserved"),
        (Extension(0, 3, array("I", [1]), 1, 7), "reserved"),
    ],
)
def test_impossible_input_fails_loudly(extension: Extension, message: str) -> None:
    engine = ToyEngine()
    assert engine.open(GREEDY, 2, 10) == 0
    feed(engine, 0, 0, [1, 2, 3], 0)
    with pytest.raises(AssertionError, match=message):
        engine.extend([extension])


def test_a_slot_may_occur_once_in_a_batch() -> None:
    engine = ToyEngine()
    slot = engine.open(GREEDY, 1, 10)
    with pytest.raises(AssertionError, match="twice"):
        engine.extend([Extension(slot, 0, array("I", [1]), 1)] * 2)


def test_slots_and_kv_tokens_are_never_exceeded_and_come_back() -> None:
    engine = ToyEngine(max_sessions=2, kv_tokens=30)
    first = engine.open(GREEDY, 1, 10)
    second = engine.fork(first, 0)
    with pytest.raises(NoRoomError, match="slots"):
        engine.open(GREEDY, 1, 1)
    engine.close(second)
    with pytest.raises(NoRoomError, match="10 of 30 KV tokens"):
        engine.open(GREEDY, 1, 21)
    engine.close(first)
    engine.open(GREEDY, 1, 30)
    assert engine.num_open == 1


def test_sampling_that_a_toy_does_not_honour_is_refused() -> None:
    with pytest.raises(EngineError, match="a toy honours"):
        ToyEngine().open(SamplingParams(top_p=0.9), 1, 2)


def test_the_toy_imports_no_torch() -> None:
    code = "import sys, specrouter_dist.engine.toy; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
