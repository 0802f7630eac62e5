"""Picks of the last rows of a block only: whatever their number, they are those of all rows."""

from array import array

import pytest

from specrouter_dist.config import SamplingParams
from specrouter_dist.engine.fast import FastEngine
from specrouter_dist.engine.interface import Extension
from tests.unit.engine.fast_models import load, save, small, text

pytestmark = pytest.mark.usefixtures("decoder")

CONTEXT, BLOCK = 20, 12


@pytest.fixture(scope="module", params=[True, False], ids=["exact", "not exact"])
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> FastEngine:
    directory = tmp_path_factory.mktemp("model")
    save(small(), directory)
    return load(directory, exact=request.param)


def picks(engine: FastEngine, slot: int, num_tokens: int, num_picks: int) -> "array[int]":
    tokens = text(120, CONTEXT + BLOCK)[CONTEXT : CONTEXT + num_tokens]
    (found,) = engine.extend([Extension(slot, CONTEXT, tokens, num_picks)])
    return found.tokens


@pytest.mark.parametrize("num_tokens", range(1, BLOCK + 1))
def test_the_last_picks_are_those_of_all_rows(engine: FastEngine, num_tokens: int) -> None:
    slot = engine.open(SamplingParams(temperature=0.0), CONTEXT, CONTEXT + BLOCK)
    engine.extend([Extension(slot, 0, text(120, CONTEXT + BLOCK)[:CONTEXT], 0)])
    wanted = picks(engine, slot, num_tokens, num_tokens)
    for num_picks in range(1, num_tokens):
        assert picks(engine, slot, num_tokens, num_picks) == wanted[-num_picks:], num_picks
    engine.close(slot)


def test_in_a_batch_too(engine: FastEngine) -> None:
    slots = [
        engine.open(SamplingParams(temperature=0.0), CONTEXT, CONTEXT + BLOCK) for _ in range(2)
    ]
    stream = text(120, CONTEXT + BLOCK)
    engine.extend([Extension(slot, 0, stream[:CONTEXT], 0) for slot in slots])
    one = Extension(slots[0], CONTEXT, stream[CONTEXT : CONTEXT + 1], 1)
    for num_picks in range(1, 8):
        seven = Extension(slots[1], CONTEXT, stream[CONTEXT : CONTEXT + 7], num_picks)
        alone = [engine.extend([one])[0].tokens, engine.extend([seven])[0].tokens]
        assert [found.tokens for found in engine.extend([one, seven])] == alone
    for slot in slots:
        engine.close(slot)
