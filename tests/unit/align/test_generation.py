"""The serving engine writes what transformers writes, however many texts there are."""

from __future__ import annotations

from array import array
from pathlib import Path

import numpy as np
import pytest
import torch

from specrouter_dist.align.data import Example
from specrouter_dist.align.generation import Continuation, TopK, laws_along, write
from specrouter_dist.align.samples import Lesson, read_shard, samplings_of, write_shard
from specrouter_dist.config import SamplingParams
from specrouter_dist.engine.interface import Engine
from specrouter_dist.errors import NoRoomError
from specrouter_dist.routing.similarity import SparseRows
from tests.unit.align.models import engine_of, tiny_target

PROMPTS = [array("I", ids) for ids in ([5, 6, 7], [*range(8, 14)], [20, 21, 22, 23], [40] * 9)]
END = frozenset({0})


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    return engine_of(tiny_target(64), tmp_path / "model")


def written(
    engine: Engine,
    temperatures: tuple[float, ...],
    *,
    ends: frozenset[int] = END,
    max_new: int = 12,
    seed: int = 0,
) -> list[Continuation]:
    return write(engine, PROMPTS, samplings_of(len(PROMPTS), temperatures, ends, max_new, seed))


def test_greedy_texts_and_their_laws_are_those_of_transformers(engine: Engine) -> None:
    model = tiny_target(64)
    for prompt, new in zip(PROMPTS, written(engine, (0.0,)), strict=True):
        tokens = list(prompt)
        for token, ids, log_probs in zip(new.tokens, new.top.ids, new.top.log_probs, strict=True):
            with torch.inference_mode():
                law = model(torch.tensor([tokens])).logits[0, -1].log_softmax(dim=-1)
            assert token == int(law.argmax()) == ids[0]
            wanted = law[torch.from_numpy(ids.astype(np.int64))].numpy()
            np.testing.assert_allclose(log_probs, wanted, atol=0.02)
            tokens.append(token)
        assert len(new.tokens) == 12 or new.tokens[-1] == 0


def test_a_text_does_not_depend_on_those_beside_it(tmp_path: Path) -> None:
    # One at a time, two at a time, and all at once.
    found = [
        [new.tokens for new in written(engine_of(tiny_target(64), tmp_path / name, **room), (1.0,))]
        for name, room in (
            ("one", {"max_sessions": 1}),
            ("two", {"kv_tokens": 64, "context_tokens": 32}),
            ("all", {}),
        )
    ]
    assert found[0] == found[1] == found[2]


def test_laws_along_texts_are_those_they_were_drawn_from(engine: Engine) -> None:
    new = written(engine, (1.0,), max_new=6)
    pairs = list(zip(PROMPTS, new, strict=True))
    texts = [Example("any", (*prompt, *one.tokens), len(prompt)) for prompt, one in pairs]
    for one, laws in zip(new, laws_along(engine, texts), strict=True):
        np.testing.assert_allclose(laws.log_probs, one.top.log_probs, atol=0.02)


def test_texts_at_temperature_zero_ignore_the_noise(engine: Engine) -> None:
    first, second = (written(engine, (0.0, 1.0), seed=seed) for seed in (1, 2))
    same = [one.tokens == other.tokens for one, other in zip(first, second, strict=True)]
    assert same == [True, False, True, False]


def test_any_of_several_ids_ends_a_text(engine: Engine) -> None:
    whole = [new.tokens for new in written(engine, (0.0,))]
    ends = frozenset({whole[0][3], whole[1][5]})
    for tokens, new in zip(whole, written(engine, (0.0,), ends=ends), strict=True):
        first = min((tokens.index(end) for end in ends if end in tokens), default=len(tokens))
        assert new.tokens == tokens[: first + 1]


def test_ids_of_large_vocabularies_survive_being_written(tmp_path: Path) -> None:
    for top in (70_000, 60_000):
        rows = SparseRows(
            np.array([[top, 5]], np.uint32),
            np.log(np.array([[0.7, 0.2]], np.float32)),
            np.array([0.1]),
            top + 1,
        )
        lesson = Lesson(Example("any", (top - 1, top), 1), TopK.of(rows))
        write_shard(tmp_path / "shard.npz", [lesson])
        (again,) = read_shard(tmp_path / "shard.npz")
        assert again.example == lesson.example
        assert again.top.ids.tolist() == [[top, 5]]
        assert again.top.ids.itemsize == (4 if top == 70_000 else 2)


def test_an_engine_that_is_full_of_others_is_no_endless_wait(tmp_path: Path) -> None:
    engine = engine_of(tiny_target(64), tmp_path / "model", max_sessions=1)
    engine.open(SamplingParams(), 3, 10)
    with pytest.raises(NoRoomError):
        written(engine, (0.0,))
    with pytest.raises(NoRoomError):
        laws_along(engine, [Example("any", (5, 6, 7), 1)])


def test_texts_end_where_the_context_does(engine: Engine, tmp_path: Path) -> None:
    whole = [new.tokens for new in written(engine, (0.0,), ends=frozenset())]
    short = engine_of(tiny_target(64), tmp_path / "short", context_tokens=10)
    found = written(short, (0.0,), ends=frozenset())
    assert [new.tokens for new in found] == [
        tokens[: 10 - len(prompt)] for prompt, tokens in zip(PROMPTS, whole, strict=True)
    ]
