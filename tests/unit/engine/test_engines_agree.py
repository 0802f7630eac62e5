"""All engines over a real model are the same model, however they are fed."""

from array import array

import numpy as np
import pytest
import torch

from specrouter_dist.config import Dtype, SamplingParams
from specrouter_dist.engine.interface import Extension, Picks
from specrouter_dist.errors import EngineError
from specrouter_dist.speculation.noise import gumbel_row
from tests.unit.engine.tiny_models import (
    CONFIGS,
    CONTEXT,
    GREEDY,
    LONG_PROMPT,
    PROMPT,
    VOCAB,
    WARM,
    Load,
    TinyModel,
    feed,
    generate,
)


@pytest.mark.parametrize("model", list(CONFIGS), indirect=True)
@pytest.mark.parametrize("sampling", [GREEDY, WARM])
@pytest.mark.parametrize("exact", [True, False])
def test_tokens_are_the_argmax_of_the_model_and_the_shared_noise(
    model: TinyModel, load: Load, sampling: SamplingParams, exact: bool
) -> None:
    tokens = generate(load(exact=exact), sampling, PROMPT, 60)
    logits = model.logits([*PROMPT, *tokens])[len(PROMPT) - 1 : -1].numpy()
    if not sampling.greedy:
        rows = [gumbel_row(sampling.seed, len(PROMPT) + i, VOCAB) for i in range(60)]
        logits = logits / sampling.temperature + np.stack(rows)
    assert tokens == logits.argmax(axis=1).tolist()


@pytest.mark.parametrize("sampling", [GREEDY, WARM])
@pytest.mark.parametrize("dtype", list(Dtype))
def test_steps_verifies_drafts_and_chunked_prefill_give_the_same_tokens(
    load: Load, sampling: SamplingParams, dtype: Dtype
) -> None:
    engine = load(dtype=dtype)
    prompt = LONG_PROMPT
    alone = generate(engine, sampling, prompt, 60)
    total = len(prompt) + 60
    slot = engine.open(sampling, len(prompt), total)
    for start in range(0, 190, 38):
        assert feed(engine, slot, start, prompt[start : start + 38], 0) == Picks(array("I"))
    verified = feed(engine, slot, 190, [*prompt[190:], *alone[:-1]], 60)
    assert verified.tokens.tolist() == alone
    drafted = feed(engine, slot, 190, prompt[190:], 1, 59)
    assert drafted.tokens.tolist() == alone


def test_exact_logprobs_do_not_depend_on_the_block_or_the_batch(load: Load) -> None:
    engine = load(dtype=Dtype.BF16)
    sampling = WARM.model_copy(update={"logprobs": 20})
    slots = [engine.open(sampling, 100, 300) for _ in range(3)]
    text = array("I", [*LONG_PROMPT, *LONG_PROMPT[:60]])
    whole = feed(engine, slots[0], 0, text, len(text)).logprobs
    sizes, start, found = [1, 4, 7, 2, 16, 33, 5], 0, []
    while start < len(text):
        size = sizes[len(found) % len(sizes)]
        batch = [
            Extension(slot, start, text[start : start + size], min(size, len(text) - start))
            for slot in slots[1:]
        ]
        one, other = engine.extend(batch)
        assert one == other
        found += one.logprobs
        start += size
    assert tuple(found) == whole


def test_a_rollback_and_a_fork_leave_no_trace(load: Load) -> None:
    engine = load()
    alone = generate(engine, WARM, PROMPT, 40)
    slot = engine.open(WARM, len(PROMPT), len(PROMPT) + 60)
    feed(engine, slot, 0, [*PROMPT, *alone[:30], *[9] * 20], 5)
    feed(engine, slot, 20, [1, 2, 3], 1)
    fork = engine.fork(slot, 18)
    history = [*PROMPT, *alone]
    for start, each in ((20, slot), (18, fork)):
        first = start + 1 - len(PROMPT)
        picks = feed(engine, each, start, history[start:40], 40 - start)
        assert picks.tokens.tolist() == alone[first : 41 - len(PROMPT)]
    engine.close(slot)
    assert feed(engine, fork, 40, history[40:42], 1).tokens.tolist() == [alone[42 - len(PROMPT)]]


def test_a_fork_may_have_a_reservation_of_its_own(load: Load) -> None:
    engine = load()
    text = LONG_PROMPT[:200]
    slot = engine.open(WARM, 3, 300)
    expected = feed(engine, slot, 0, text, 1).tokens
    fork = engine.fork(slot, 199, 201)
    assert feed(engine, fork, 199, text[199:], 1).tokens == expected
    with pytest.raises(EngineError):
        feed(engine, fork, 200, [1, 2], 1)


def test_a_fork_is_not_touched_by_what_its_origin_feeds_afterwards(load: Load) -> None:
    engine = load(kv_tokens=8192, max_sessions=12)
    text = LONG_PROMPT[:200]
    sampling = WARM.model_copy(update={"logprobs": 5})
    slot = engine.open(sampling, 3, 250)
    (expected,) = feed(engine, slot, 0, text, 1).logprobs
    forks = [engine.fork(slot, 199) for _ in range(8)]
    for num_drafts, fork in enumerate(forks):
        feed(engine, slot, 59, [1, 2], 1, num_drafts)
        assert feed(engine, fork, 199, text[199:], 1).logprobs == (expected,)
        feed(engine, fork, 30, array("I", [4] * 40), 1)
    for fork in forks:
        engine.close(fork)


def test_sessions_of_a_batch_do_not_mix(load: Load) -> None:
    engine = load()
    kinds = [(GREEDY, PROMPT), (WARM, PROMPT[:2]), (WARM, LONG_PROMPT[:70])]
    alone = [generate(engine, sampling, prompt, 12) for sampling, prompt in kinds]
    slots = [engine.open(sampling, len(prompt), 90) for sampling, prompt in kinds]
    first = engine.extend(
        [
            Extension(slot, 0, prompt, 1, drafts)
            for slot, drafts, (_, prompt) in zip(slots, (0, 3, 7), kinds, strict=True)
        ]
    )
    rest = engine.extend(
        [
            Extension(slot, len(prompt), array("I", tokens[:11]), 11)
            for slot, (_, prompt), tokens in zip(slots, kinds, alone, strict=True)
        ]
    )
    for picks, more, tokens, drafts in zip(first, rest, alone, (0, 3, 7), strict=True):
        assert picks.tokens.tolist() == tokens[: drafts + 1]
        assert more.tokens.tolist() == tokens[1:]


def test_drafting_ends_at_a_stop_token(load: Load) -> None:
    engine = load()
    free = generate(engine, WARM, PROMPT, 40)
    stop = free[11]
    sampling = WARM.model_copy(update={"stop_token_ids": (stop,)})
    slot = engine.open(sampling, len(PROMPT), 60)
    picks = feed(engine, slot, 0, PROMPT, 1, 30)
    assert picks.tokens.tolist() == free[: free.index(stop) + 1]


def test_drafts_may_fill_the_reservation_to_its_end(load: Load) -> None:
    engine = load(max_sessions=2, kv_tokens=CONTEXT)
    prompt = LONG_PROMPT[:40]
    alone = generate(engine, WARM, prompt, 25)
    for num_fed in (24, 17, 8, 1):
        slot = engine.open(WARM, len(prompt), len(prompt) + num_fed)
        assert feed(engine, slot, 0, prompt, 1, num_fed).tokens.tolist() == alone[: num_fed + 1]
        engine.close(slot)


def test_penalties_follow_what_is_fed(model: TinyModel, load: Load) -> None:
    sampling = SamplingParams(temperature=0.0, presence_penalty=2.0, frequency_penalty=2.0)
    engine = load()
    tokens = generate(engine, sampling, PROMPT, 40)
    slot = engine.open(sampling, len(PROMPT), 80)
    feed(engine, slot, 0, [*PROMPT, *tokens[:10], *[tokens[12]] * 20], 3)
    again = feed(engine, slot, 12, [*PROMPT, *tokens][12:46], 20)
    assert again.tokens.tolist() == tokens[20:40]
    assert tokens != generate(engine, GREEDY, PROMPT, 40)


def test_logprobs_are_those_of_the_model(model: TinyModel, load: Load) -> None:
    engine = load()
    slot = engine.open(WARM.model_copy(update={"logprobs": 3}), len(PROMPT), 20)
    picks = feed(engine, slot, 0, PROMPT, 4, 3)
    assert len(picks.logprobs) == len(picks.tokens) == 7
    text = [*PROMPT, *picks.tokens[3:]]
    laws = torch.log_softmax(model.logits(text), dim=1)
    for found, token, law in zip(picks.logprobs, picks.tokens, laws[3:], strict=False):
        best = law.topk(3)
        assert found.token == token
        assert found.logprob == pytest.approx(float(law[token]), abs=1e-3)
        assert [i for i, _ in found.top] == best.indices.tolist()
        assert [v for _, v in found.top] == pytest.approx(best.values.tolist(), abs=1e-3)
