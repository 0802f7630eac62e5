"""Synthetic members agree as stated, are as deterministic as models, and compute."""

from array import array
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from specrouter_dist.config import Agreement, ModelMember, SamplingParams, SyntheticTexts
from specrouter_dist.engine.decoder import Part
from specrouter_dist.engine.factory import load_engine
from specrouter_dist.engine.fast import FastEngine
from specrouter_dist.engine.interface import Extension, Picks
from specrouter_dist.errors import EngineError, RequestError
from specrouter_dist.pools.shapes import SHAPES_DIRECTORY
from specrouter_dist.speculation.agreeing import NUM_GROUPS, JointLaw, law_of
from specrouter_dist.speculation.messages import TokenArray
from tests.pools import AGREEMENTS

DIRECTORY = SHAPES_DIRECTORY / "mini-1m"
NAMES = ("small", "medium", "target")
TEXTS = SyntheticTexts(
    seed=11,
    agreements=tuple(
        Agreement(draft=d, verifier=v, agreement=a) for (d, v), a in AGREEMENTS.items()
    ),
)
PROMPT = array("I", [7, 700, 70, 4000])
NUM_TOKENS = 1000
SEEDS = (1, 2, 3)
NUM_IDS = 4000


def load(name: str, texts: SyntheticTexts = TEXTS, **changes: Any) -> FastEngine:
    fields: dict[str, Any] = {"kv_tokens": 8192, "max_sessions": 8} | changes
    member = ModelMember(
        name=name,
        role="target" if name == "target" else "drafter",
        engine="synthetic",
        model="mini-1m",
        **fields,
    )
    engine = load_engine(member, DIRECTORY, num_ids=NUM_IDS, exact=True, synthetic=texts)
    assert isinstance(engine, FastEngine)
    return engine


@pytest.fixture(scope="module")
def engines() -> dict[str, FastEngine]:
    return {name: load(name) for name in NAMES}


def sampled(seed: int, **changes: Any) -> SamplingParams:
    return SamplingParams(temperature=0.8, seed=seed, max_tokens=NUM_TOKENS, **changes)


def feed(engine: FastEngine, slot: int, start: int, tokens: TokenArray, *counts: int) -> Picks:
    (picks,) = engine.extend([Extension(slot, start, tokens, *counts)])
    return picks


def written(engine: FastEngine, sampling: SamplingParams, num_tokens: int) -> TokenArray:
    """The prompt and what the member writes behind it."""
    slot = engine.open(sampling, len(PROMPT), len(PROMPT) + num_tokens)
    picks = feed(engine, slot, 0, PROMPT, 1, num_tokens - 1)
    engine.close(slot)
    return PROMPT + picks.tokens


def read(engine: FastEngine, sampling: SamplingParams, text: TokenArray) -> TokenArray:
    """What the member picks at each position behind the prompt, all else being as in ``text``."""
    slot = engine.open(sampling, len(PROMPT), len(text))
    picks = feed(engine, slot, 0, text[:-1], len(text) - len(PROMPT)).tokens
    engine.close(slot)
    return picks


@pytest.fixture(scope="module")
def same(engines: dict[str, FastEngine]) -> dict[tuple[str, str, str], list[np.ndarray]]:
    """By pair and by whose text it is: at which positions both pick the same, a text each."""
    found: dict[tuple[str, str, str], list[np.ndarray]] = {}
    for path_of in ("target", "medium"):
        for seed in SEEDS:
            sampling = sampled(seed)
            text = written(engines[path_of], sampling, NUM_TOKENS)
            picks = {name: np.array(read(engines[name], sampling, text)) for name in NAMES}
            assert picks[path_of].tolist() == text[len(PROMPT) :].tolist()
            for draft, verifier in AGREEMENTS:
                key = draft, verifier, path_of
                found.setdefault(key, []).append(picks[draft] == picks[verifier])
    return found


@pytest.mark.parametrize("path_of", ["target", "medium"])
@pytest.mark.parametrize("pair", AGREEMENTS)
def test_pairs_agree_as_stated_and_independently(
    same: dict[tuple[str, str, str], list[np.ndarray]], pair: tuple[str, str], path_of: str
) -> None:
    agreement, texts = AGREEMENTS[pair], same[(*pair, path_of)]
    count = sum(map(len, texts))
    assert count == len(SEEDS) * NUM_TOKENS
    for length in (1, 2, 4):
        # Blocks that do not overlap: their number is that of independent draws.
        num_blocks = count // length // len(SEEDS) * len(SEEDS)
        blocks = [text[: len(text) // length * length].reshape(-1, length) for text in texts]
        survival = np.concatenate(blocks).all(axis=1).mean()
        expected = agreement**length
        sigma = (expected * (1 - expected) / num_blocks) ** 0.5
        assert survival == pytest.approx(expected, abs=3 * sigma)


def test_a_pair_that_is_not_stated_follows_from_the_law() -> None:
    two = SyntheticTexts(agreements=TEXTS.agreements[:1] + TEXTS.agreements[2:])
    law, _ = law_of(two.agreements, "target")
    assert 0.65 + 0.8 - 1 <= law.agreement(0, 2) <= 1 - (0.8 - 0.65)
    assert law.agreement(0, 1) == pytest.approx(0.65, abs=1e-6)
    assert JointLaw(["alone"], {}).agreement(0, 0) == 1.0


@pytest.mark.parametrize("sampling", [SamplingParams(temperature=0.0, seed=5), sampled(5)])
def test_a_pick_does_not_depend_on_how_tokens_were_fed(
    engines: dict[str, FastEngine], sampling: SamplingParams
) -> None:
    engine = engines["target"]
    text = written(engine, sampling, 60)
    slot = engine.open(sampling, len(PROMPT), len(text) + 8)
    feed(engine, slot, 0, text[:30], 0)
    # What was fed and taken back leaves nothing.
    wrong = array("I", [1, 2, 3])
    assert feed(engine, slot, 30, wrong, 3).tokens != text[31:34]
    got = feed(engine, slot, 30, text[30:50], 20).tokens
    fork = engine.fork(slot, 40)
    assert got == text[31:51]
    assert feed(engine, fork, 40, text[40:50], 10).tokens == text[41:51]
    for opened in (slot, fork):
        engine.close(opened)
    assert read(engine, sampling, text) == text[len(PROMPT) :]


def test_a_prefix_that_is_cached_counts(engines: dict[str, FastEngine]) -> None:
    engine, sampling = engines["target"], sampled(8)
    text = written(engine, sampling, 300)
    slot = engine.open(sampling, len(PROMPT), len(text))
    feed(engine, slot, 0, text[:-1], 1)
    engine.publish(slot, text[:-1])
    engine.close(slot)
    slot = engine.open(sampling, len(PROMPT), len(text))
    num_cached = engine.reuse(slot, text[:-1])
    assert num_cached > 0
    picks = feed(engine, slot, num_cached, text[num_cached:-1], 4).tokens
    assert picks == text[-4:]
    engine.close(slot)


def test_texts_differ_by_prompt_and_by_seed_but_not_by_seed_where_greedy() -> None:
    def text(temperature: float, seed: int, texts: SyntheticTexts = TEXTS) -> TokenArray:
        sampling = SamplingParams(temperature=temperature, seed=seed)
        return written(load("target", texts), sampling, 20)

    assert text(0.0, 1) == text(0.0, 2) != text(0.8, 1)
    assert text(0.8, 1) == text(0.8, 1) != text(0.8, 2)
    assert text(0.0, 1) != text(0.0, 1, TEXTS.model_copy(update={"seed": 12}))


def test_only_shared_ids_are_picked_and_no_stop_id(engines: dict[str, FastEngine]) -> None:
    plain = written(engines["target"], sampled(1), 400)[len(PROMPT) :]
    assert max(plain) < NUM_IDS < engines["target"].info.vocab_size
    stop_ids = tuple(set(plain[100:200]))
    sampling = sampled(1, stop_token_ids=stop_ids)
    text = written(engines["target"], sampling, 400)
    assert len(text) == len(PROMPT) + 400
    assert set(stop_ids).isdisjoint(text[len(PROMPT) :])
    first = next(i for i, token in enumerate(plain) if token in stop_ids)
    assert text[len(PROMPT) :][:first] == plain[:first]
    assert (text[len(PROMPT) + first] - plain[first]) % NUM_GROUPS == 0


def test_the_law_has_one_id(engines: dict[str, FastEngine]) -> None:
    engine = engines["small"]
    slot = engine.open(sampled(1), len(PROMPT), 64)
    (picks,) = engine.extend([Extension(slot, 0, PROMPT, 3, num_runner_ups=1, sparse_rows=(0, 2))])
    engine.close(slot)
    assert [list(each) for each in picks.runner_ups] == [[], [], []]
    assert picks.gaps == (np.inf,) * 3
    assert picks.sparse_rows is not None and picks.sparse_rows.is_plausible
    assert picks.sparse_rows.ids[:, 0].tolist() == [picks.tokens[0], picks.tokens[2]]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("logprobs", 0),
        ("prompt_logprobs", 2),
        ("logit_bias", {3: 1.0}),
        ("repetition_penalty", 1.1),
        ("presence_penalty", 0.1),
        ("frequency_penalty", 0.1),
        ("top_p", 0.9),
        ("top_k", 5),
        ("min_p", 0.1),
        ("stop_token_ids", tuple(range(NUM_IDS // 8))),
    ],
)
def test_what_needs_a_law_is_refused_by_name(
    engines: dict[str, FastEngine], field: str, value: Any
) -> None:
    engine = engines["target"]
    before = engine.kv_share
    with pytest.raises(RequestError, match=rf"^{field}: ") as refused:
        engine.open(sampled(1, **{field: value}), 4, 8)
    assert refused.value.field == field
    assert engine.kv_share == before


def test_the_forward_is_that_of_the_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = load("target")
    assert engine.info.num_parameters == 1_212_800
    rows: list[int] = []
    forward = type(engine._decoder).forward

    def noted(self: Any, parts: Sequence[Part]) -> torch.Tensor:
        rows.append(sum(len(part.tokens) for part in parts))
        return forward(self, parts)

    monkeypatch.setattr(type(engine._decoder), "forward", noted)
    slot = engine.open(sampled(1), len(PROMPT), 64)
    feed(engine, slot, 0, PROMPT, 1, 3)
    assert rows == [len(PROMPT), 1, 1, 1]
    written_to = [layer.abs().sum().item() for layer in engine._decoder.cache.layers]
    assert all(written_to)


def test_without_texts_there_is_no_member() -> None:
    member = ModelMember(name="t", role="target", engine="synthetic", model="mini-1m")
    with pytest.raises(EngineError, match="'t': synthetic: "):
        load_engine(member, DIRECTORY, num_ids=None, exact=True)


def test_neighbours_do_not_repeat() -> None:
    """A text that repeats itself would be continued from itself."""
    text = written(load("target"), sampled(4), NUM_TOKENS)
    assert len(set(pairwise(text))) > 0.99 * NUM_TOKENS
