"""What a masked target picks along the target's texts is what it picks in a chain."""

from array import array
from pathlib import Path

import pytest

from specrouter_dist.config import SamplingParams
from specrouter_dist.engine.fast import FastEngine
from specrouter_dist.engine.interface import Extension
from specrouter_dist.engine.slim import SlimEngine
from specrouter_dist.slim.reading import BLOCK_TOKENS, read, read_masked
from specrouter_dist.slim.texts import Text, close_texts, num_pages, write_texts
from specrouter_dist.speculation.messages import TokenArray
from tests.unit.engine.fast_models import load, save, small, text

MASK = ("1.attention", "2.mlp", "3.attention", "3.mlp")
LENGTHS = (3, 61, 64, 70, 200)
"""Of prompts: outputs begin and end on both sides of a page's end."""
KV_TOKENS = 64 * sum(num_pages(length, 21) for length in LENGTHS)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("texts")
    save(small(num_hidden_layers=5), path)
    return path


def written(target: FastEngine, temperature: float) -> list[Text]:
    prompts = [text(120, length) for length in LENGTHS]
    samplings = [
        SamplingParams(temperature=temperature, max_tokens=21 - 4 * i, seed=i)
        for i in range(len(prompts))
    ]
    return write_texts(target, prompts, samplings)


def in_a_chain(directory: Path, of: Text) -> TokenArray:
    """Block by block: the target has fed all in front of it, in a session of its own."""
    target = load(directory)
    slim = SlimEngine(target, MASK)
    found = array("I")
    for first in range(0, len(of.output), BLOCK_TOKENS):
        start = len(of.prompt) - 1 + first
        block = of.tokens[start : min(start + BLOCK_TOKENS, len(of.tokens) - 1)]
        slot = target.open(of.sampling, len(of.prompt), len(of.tokens))
        if start:
            target.extend([Extension(slot, 0, of.tokens[:start], 0)])
        slim.join(slot, of.sampling, len(of.prompt))
        (picks,) = slim.extend([Extension(slot, start, block, len(block))])
        found += picks.tokens
        slim.leave(slot)
        target.close(slot)
    return found


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_picks_are_those_of_a_chain(directory: Path, temperature: float) -> None:
    target = load(directory, max_sessions=10, kv_tokens=KV_TOKENS)
    texts = written(target, temperature)
    found = read_masked(target, MASK, texts)
    assert found == [in_a_chain(directory, of) for of in texts]
    assert found != [of.output for of in texts]


def test_trying_masks_leaves_the_texts_as_they_are(directory: Path) -> None:
    target = load(directory, max_sessions=10, kv_tokens=KV_TOKENS)
    num_free = target._decoder.cache.allocator.num_free
    texts = written(target, 0.0)
    first = read_masked(target, MASK, texts)
    # Nothing is left out: all is as the target has written it.
    assert read_masked(target, (), texts) == [of.output for of in texts]
    assert read_masked(target, MASK, texts) == first
    close_texts(target, texts)
    assert target._decoder.cache.allocator.num_free == num_free


def test_a_member_of_its_own_reads_with_its_own_cache(directory: Path) -> None:
    target = load(directory, max_sessions=10, kv_tokens=KV_TOKENS)
    texts = written(target, 0.8)
    assert read(load(directory), texts) == [of.output for of in texts]
