"""Runner-ups and sparse rows against dense ones; asking for them changes no pick."""

import math
from array import array
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from specrouter_dist.config import SamplingParams
from specrouter_dist.engine.interface import Engine, Extension, Picks
from specrouter_dist.engine.sampler import Sampler
from specrouter_dist.engine.toy import ToyEngine
from specrouter_dist.routing.similarity import MAX_ROWS, SPARSE_ROW_IDS, SparseRows
from specrouter_dist.speculation.noise import gumbel_row
from tests.unit.engine.test_sampler import ALL_KINDS, new_sampler, random_logits
from tests.unit.engine.test_sampler_law import CPU, params_for, shaped, softmax, steps
from tests.unit.engine.tiny_models import GREEDY, LONG_PROMPT, WARM, Load, TinyModel

NUM_RUNNER_UPS = 5
WANTED = (0, 2, 5)
TRUNCATED = SamplingParams(temperature=0.9, seed=6, top_p=0.9, top_k=30)
PENALISED = SamplingParams(
    temperature=1.2,
    seed=8,
    repetition_penalty=1.3,
    presence_penalty=0.6,
    logit_bias={3: 2.0},
    min_tokens=8,
    stop_token_ids=(3, 17),
)


def ranked(
    logits: np.ndarray,
    params: SamplingParams,
    history: Sequence[int],
    prompt_tokens: int,
    *,
    least_gap: float = 1e-4,
) -> list[int]:
    """Pick and runner-ups; empty where rounding could change their order."""
    scores = shaped(logits, params, history, prompt_tokens)
    if not params.greedy:
        scores = scores + gumbel_row(params.seed, len(history), scores.size)
    order = [int(i) for i in np.argsort(-scores, kind="stable") if scores[i] > -np.inf]
    best = scores[order[: NUM_RUNNER_UPS + 2]]
    if np.any(-np.diff(best) < least_gap * np.maximum(1.0, np.abs(best[:-1]))):
        return []
    return order[: NUM_RUNNER_UPS + 1]


def gap_of(
    logits: np.ndarray, params: SamplingParams, history: Sequence[int], prompt_tokens: int
) -> float:
    """By how much the pick is above the best runner-up."""
    scores = shaped(logits, params, history, prompt_tokens)
    if not params.greedy:
        scores = scores + gumbel_row(params.seed, len(history), scores.size)
    second, first = np.sort(scores)[-2:]
    return float(first - second)


def borderline(
    logits: np.ndarray, params: SamplingParams, history: Sequence[int], prompt_tokens: int
) -> bool:
    """Whether a rounding error could change which ids are kept."""
    kept = set()
    for nudge in (-1e-5, 0.0, 1e-5):
        top_p = params.top_p if params.top_p == 1 else params.top_p * (1 + nudge)
        changes = {"top_p": top_p, "min_p": min(1.0, params.min_p * (1 + nudge))}
        row = shaped(logits, params.model_copy(update=changes), history, prompt_tokens)
        kept.add((row > -np.inf).tobytes())
    return len(kept) > 1


def assert_lists(rows: SparseRows | None, logits: np.ndarray, tolerance: float) -> None:
    """``rows`` are the laws of ``logits`` before temperature, cut to their 64 likeliest ids."""
    assert rows is not None and rows.is_plausible
    assert (len(rows), rows.vocab_size) == logits.shape
    assert rows.ids.shape[1] == min(SPARSE_ROW_IDS, rows.vocab_size)
    for row, ids in enumerate(rows.ids):
        law = softmax(logits[row].astype(np.float64))
        values = np.exp(rows.logprobs[row])
        assert values.tolist() == pytest.approx(law[ids].tolist(), abs=tolerance)
        assert values.tolist() == pytest.approx(np.sort(law)[::-1][: len(ids)], abs=tolerance)
        assert rows.tails[row] == pytest.approx(law.sum() - law[ids].sum(), abs=tolerance)


@settings(max_examples=150, deadline=None)
@given(data=st.data(), vocab_size=st.sampled_from([2, 7, 33, 400]), seed=st.integers(0, 10**6))
def test_a_sampler_reads_what_the_reference_does_through_rollbacks(
    data: st.DataObject, vocab_size: int, seed: int
) -> None:
    params = data.draw(params_for(vocab_size))
    prompt_tokens = data.draw(st.integers(1, 6))
    asked, plain = Sampler(vocab_size, 4, CPU), Sampler(vocab_size, 4, CPU)
    for sampler in (asked, plain):
        sampler.open(2, params, prompt_tokens)
    rng = np.random.default_rng(seed)
    history: list[int] = []
    num_checked = 0
    for rollback, tokens, num_picks in data.draw(steps(vocab_size)):
        start = max(0, len(history) - rollback)
        history = history[:start] + tokens
        logits = (rng.standard_normal((num_picks, vocab_size)) * 3).astype(np.float32)
        bare = Extension(2, start, array("I", tokens), num_picks)
        wanted = tuple(range(0, min(num_picks, 2 * MAX_ROWS), 2))
        more = replace(bare, num_runner_ups=NUM_RUNNER_UPS, sparse_rows=wanted)
        (picks,) = asked.draw(torch.from_numpy(logits), [more])
        (expected,) = plain.draw(torch.from_numpy(logits), [bare])
        assert picks.tokens == expected.tokens
        assert (expected.runner_ups, expected.sparse_rows) == ((), None)
        assert len(picks.runner_ups) == num_picks
        if wanted:
            assert_lists(picks.sparse_rows, logits[list(wanted)], 1e-5)
        for row in range(num_picks):
            args = logits[row], params, history[: len(history) - num_picks + 1 + row], prompt_tokens
            order = ranked(*args)
            if borderline(*args) or not order:
                continue
            num_checked += 1
            assert [picks.tokens[row], *picks.runner_ups[row]] == order
            assert picks.gaps[row] == pytest.approx(gap_of(*args), abs=1e-3)
    assume(num_checked)


@pytest.mark.parametrize("sampling", [GREEDY, WARM, TRUNCATED, PENALISED])
def test_engines_return_the_dense_order_and_law_of_the_model(
    model: TinyModel, load: Load, sampling: SamplingParams
) -> None:
    engine = load()
    prompt = LONG_PROMPT[:40]
    bare = Extension(engine.open(sampling, 36, 60), 0, prompt, 6, num_drafts=6)
    asked = replace(
        bare,
        slot=engine.open(sampling, 36, 60),
        num_runner_ups=NUM_RUNNER_UPS,
        sparse_rows=WANTED,
    )
    expected, picks = engine.extend([bare, asked])
    assert picks.tokens == expected.tokens
    assert (expected.runner_ups, expected.sparse_rows) == ((), None)
    num_positions = len(picks.tokens)
    assert len(picks.runner_ups) == num_positions > 6
    history = [*prompt, *picks.tokens[5:]]
    logits = model.logits(history).numpy()
    num_checked = 0
    for i in range(num_positions):
        position = 35 + i
        args = logits[position - 1], sampling, history[:position], 36
        order = ranked(*args)
        if borderline(*args) or not order:
            continue
        num_checked += 1
        assert [picks.tokens[i], *picks.runner_ups[i]] == order
    assert num_checked >= num_positions - 2
    # The same whatever the request's temperature and penalties are.
    assert_lists(picks.sparse_rows, logits[[34 + i for i in WANTED]], 1e-4)
    assert picks.sparse_rows is not None and (picks.sparse_rows.tails > 0.0).all()


@pytest.mark.parametrize("sampling", [GREEDY, WARM, PENALISED])
def test_a_toy_returns_the_dense_order_and_law(sampling: SamplingParams) -> None:
    changes = {"repetition_penalty": 1.0, "presence_penalty": 0.0, "logit_bias": {}}
    sampling = sampling.model_copy(update=changes)
    engine = ToyEngine(80, model_seed=3, sharpness=1.0)
    prompt = array("I", [4, 9, 7])
    bare = Extension(engine.open(sampling, 2, 20), 0, prompt, 2, num_drafts=9)
    asked = replace(
        bare,
        slot=engine.open(sampling, 2, 20),
        num_runner_ups=NUM_RUNNER_UPS,
        sparse_rows=(0, 1),
    )
    expected, picks = engine.extend([bare, asked])
    assert picks.tokens == expected.tokens
    assert (expected.runner_ups, expected.sparse_rows) == ((), None)
    assert len(picks.runner_ups) == len(picks.tokens)
    history = [*prompt, *picks.tokens[1:]]
    for i, token in enumerate(picks.tokens):
        position = 2 + i
        args = engine.law(*history[position - 2 : position]), sampling, history[:position], 2
        assert [token, *picks.runner_ups[i]] == ranked(*args, least_gap=0.0)
        assert picks.gaps[i] == pytest.approx(gap_of(*args), abs=1e-6)
    laws = np.stack([engine.law(*prompt[i : i + 2]) for i in (0, 1)])
    assert_lists(picks.sparse_rows, laws, 1e-6)


@pytest.mark.parametrize("num_asking", [0, 3, len(ALL_KINDS)])
def test_only_those_who_ask_are_answered(num_asking: int) -> None:
    num_kinds = len(ALL_KINDS)
    logits = random_logits(2 * num_kinds, 11)
    before = logits.clone()
    bare = [Extension(slot, 0, array("I", [5, 6]), 2) for slot in range(num_kinds)]
    batch = [
        replace(each, num_runner_ups=2, sparse_rows=(1,)) if each.slot < num_asking else each
        for each in bare
    ]
    expected = new_sampler(ALL_KINDS).draw(logits, bare)
    found = new_sampler(ALL_KINDS).draw(logits, batch)
    assert torch.equal(logits, before)
    for slot, (picks, plain) in enumerate(zip(found, expected, strict=True)):
        assert len(picks.runner_ups) == (2 if slot < num_asking else 0)
        assert len(picks.gaps) == len(picks.runner_ups)
        if slot < num_asking:
            assert_lists(picks.sparse_rows, logits[[2 * slot + 1]].float().numpy(), 1e-5)
        assert replace(picks, runner_ups=(), gaps=(), sparse_rows=None) == plain


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_lowest_id_is_the_first_runner_up_among_equals(dtype: torch.dtype) -> None:
    logits = torch.zeros(2, 301, dtype=dtype)
    logits[0, [17, 200, 120]] = 4.0
    before = logits.clone()
    extension = Extension(0, 0, array("I", [1, 1]), 2, num_runner_ups=4, sparse_rows=(0, 1))
    (picks,) = new_sampler([GREEDY]).draw(logits, [extension])
    assert picks.runner_ups == (array("I", [120, 200, 0, 1]), array("I", [1, 2, 3, 4]))
    assert picks.gaps == (0.0, 0.0)
    assert_lists(picks.sparse_rows, logits.float().numpy(), 1e-6)
    assert torch.equal(logits, before)


def test_ids_that_cannot_be_drawn_are_no_runner_ups() -> None:
    sampler = new_sampler([SamplingParams(top_k=3, seed=4), SamplingParams(top_k=1, seed=4)])
    batch = [Extension(slot, 0, array("I", [1]), 1, num_runner_ups=10) for slot in (0, 1)]
    logits = random_logits(2, 12)
    three, one = sampler.draw(logits, batch)
    kept = logits[0].topk(3).indices.tolist()
    assert {three.tokens[0], *three.runner_ups[0]} == set(kept)
    assert one.runner_ups == (array("I"),)
    assert one.gaps == (math.inf,)


def test_a_toy_has_no_impossible_runner_ups() -> None:
    engine = ToyEngine(5)
    sampling = SamplingParams(temperature=0.0, min_tokens=2, stop_token_ids=(1, 2))
    slot = engine.open(sampling, 1, 9)
    asked = Extension(slot, 0, array("I", [4]), 1, num_runner_ups=10)
    (picks,) = engine.extend([asked])
    assert sorted([*picks.tokens, *picks.runner_ups[0]]) == [0, 3, 4]


@pytest.mark.parametrize("sampling", [GREEDY, PENALISED])
def test_nothing_comes_back_without_picks(load: Load, sampling: SamplingParams) -> None:
    engines: list[Engine] = [load(), ToyEngine()]
    for engine in engines:
        toy = isinstance(engine, ToyEngine)
        slot = engine.open(WARM if toy else sampling, 2, 9)
        asked = Extension(slot, 0, array("I", [1, 2]), 0, num_runner_ups=3)
        assert engine.extend([asked]) == [Picks(array("I"))]
