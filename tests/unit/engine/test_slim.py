"""The layer-skipped target: its laws against transformers, what it leaves alone, what it costs."""

import gc
import inspect
from array import array
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache

from specrouter_dist.config import LayerSkipMember, SamplingParams
from specrouter_dist.engine.factory import load_slim
from specrouter_dist.engine.fast import FastEngine
from specrouter_dist.engine.interface import Extension
from specrouter_dist.engine.slim import SlimEngine
from specrouter_dist.engine.toy import ToyEngine
from specrouter_dist.errors import EngineError
from tests.unit.engine.fast_models import load, logged_logits, save, small, text

pytestmark = pytest.mark.usefixtures("decoder")

MASK = ("1.attention", "2.mlp", "3.attention", "3.mlp")
GREEDY = SamplingParams(temperature=0.0)
NUM_PICKS = 33
NUM_SHARED, NUM_OWN = 70, 9
"""Positions that the target has fed, over a page's end, and those that the slim model adds."""


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    directory = tmp_path_factory.mktemp("slim")
    return directory, save(small(num_hidden_layers=5), directory)


def skip(reference: Any, mask: Collection[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The same in transformers: what is left out adds nothing, and caches nothing."""
    for part in mask:
        number, name = part.split(".")
        layer = reference.model.layers[int(number)]
        if name == "mlp":
            monkeypatch.setattr(layer.mlp, "forward", torch.zeros_like)
        else:
            nothing = lambda hidden_states, **_: (torch.zeros_like(hidden_states), None)  # noqa: E731
            monkeypatch.setattr(layer.self_attn, "forward", nothing)


@torch.inference_mode()
def reference_logits(
    reference: Any, tokens: "array[int]", num_shared: int, monkeypatch: pytest.MonkeyPatch
) -> Tensor:
    """Behind ``num_shared`` tokens, whose keys and values the whole model has computed."""
    ids, cache = torch.tensor([list(tokens)]), DynamicCache(config=reference.config)
    parameters = inspect.signature(reference.forward).parameters
    keyword = "cache" if "cache" in parameters else "past_key_values"
    if num_shared:
        reference(ids[:, :num_shared], **{keyword: cache})
    with monkeypatch.context() as patch:
        skip(reference, MASK, patch)
        result = reference(ids[:, num_shared:], **{keyword: cache})
    logits: Tensor = result.logits[0]
    return logits


@pytest.mark.parametrize("num_shared", [0, NUM_SHARED])
def test_laws_are_those_of_the_masked_model_on_the_targets_cache(
    saved: tuple[Path, Any], num_shared: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory, reference = saved
    target = load(directory)
    slim = SlimEngine(target, MASK)
    tokens = text(120, num_shared + NUM_OWN)
    if num_shared:
        slot = target.open(GREEDY, 5, 128)
        target.extend([Extension(slot, 0, tokens[:num_shared], 0)])
        slim.join(slot, GREEDY, 5)
        slim.follow(slot, 0, tokens[:num_shared])
    else:
        slot = slim.open(GREEDY, 5, 128)
    with logged_logits() as log:
        for start in range(num_shared, len(tokens), 3):
            slim.extend([Extension(slot, start, tokens[start : start + 3], 3)])
    found = torch.stack([log.rows[slot, i] for i in range(num_shared, len(tokens))])
    wanted = reference_logits(reference, tokens, num_shared, monkeypatch)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def test_what_the_slim_model_leaves_behind_changes_no_bit_of_the_targets(
    saved: tuple[Path, Any],
) -> None:
    directory, _ = saved
    tokens, wrong = text(120, NUM_SHARED + NUM_OWN), array("I", [1] * NUM_OWN)
    rows = []
    for is_shared in (False, True):
        target = load(directory)
        slot = target.open(GREEDY, 5, 128)
        target.extend([Extension(slot, 0, tokens[:NUM_SHARED], 0)])
        if is_shared:
            slim = SlimEngine(target, MASK)
            slim.join(slot, GREEDY, 5)
            slim.follow(slot, 0, tokens[:NUM_SHARED])
            slim.extend([Extension(slot, NUM_SHARED, wrong, 1, num_drafts=7)])
        with logged_logits() as log:
            target.extend([Extension(slot, NUM_SHARED, tokens[NUM_SHARED:], NUM_OWN)])
        rows.append(torch.stack(list(log.rows.values())))
    assert torch.equal(*rows)


def test_penalties_count_what_the_target_has_fed(saved: tuple[Path, Any]) -> None:
    directory, _ = saved
    sampling = SamplingParams(temperature=0.0, repetition_penalty=1.7, frequency_penalty=0.9)
    tokens = text(120, NUM_SHARED + NUM_OWN)
    target = load(directory)
    slim = SlimEngine(target, ())
    slot = target.open(sampling, 5, 128)
    slim.join(slot, sampling, 5)
    (wanted,) = target.extend([Extension(slot, 0, tokens, NUM_OWN)])
    # Taken back again, or else it would not be picked.
    slim.follow(slot, 0, tokens[:3] + wanted.tokens[:1] * 60)
    slim.follow(slot, 3, tokens[3:NUM_SHARED])
    (found,) = slim.extend([Extension(slot, NUM_SHARED, tokens[NUM_SHARED:], NUM_OWN)])
    assert found.tokens == wanted.tokens


def test_leaving_and_closing_give_everything_back(saved: tuple[Path, Any]) -> None:
    target = load(saved[0], max_sessions=2, kv_tokens=256)
    slim = SlimEngine(target, MASK)
    for _ in range(3):
        slot, own = target.open(GREEDY, 5, 128), slim.open(GREEDY, 5, 128)
        slim.join(slot, GREEDY, 5)
        slim.leave(slot)
        slim.close(own)
        target.close(slot)


def test_what_the_target_has_published_is_found_and_nothing_else(saved: tuple[Path, Any]) -> None:
    target = load(saved[0])
    slim = SlimEngine(target, MASK)
    tokens = text(120, 130)
    slot = slim.open(GREEDY, 5, 131)
    slim.extend([Extension(slot, 0, tokens, 1)])
    slim.publish(slot, tokens)
    slim.close(slot)
    assert slim.reuse(slim.open(GREEDY, 5, 131), tokens) == 0
    slot = target.open(GREEDY, 5, 131)
    target.extend([Extension(slot, 0, tokens, 1)])
    target.publish(slot, tokens)
    assert slim.reuse(slim.open(GREEDY, 5, 131), tokens) == 128


def tensor_bytes() -> int:
    """Of all storages that are alive, each once."""
    gc.collect()
    storages = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
        for tensor in gc.get_objects()
        if issubclass(type(tensor), Tensor) and tensor.layout is torch.strided
    }
    return sum(storages.values())


def run(engine: FastEngine, slot: int) -> None:
    for start in (0, 40):
        engine.extend([Extension(slot, start, text(120, 40), NUM_PICKS, num_drafts=7)])


def test_it_takes_hardly_any_memory(saved: tuple[Path, Any]) -> None:
    before = tensor_bytes()
    target = load(saved[0])
    slot = target.open(SamplingParams(seed=3), 5, 128)
    run(target, slot)
    alone = tensor_bytes() - before
    slim = SlimEngine(target, MASK)
    slim.join(slot, SamplingParams(seed=3), 5)
    slim.follow(slot, 0, text(120, 1)[:0])
    run(slim, slot)
    grown = tensor_bytes() - before - alone
    assert alone > target.info.kv_bytes
    assert grown <= 0.05 * alone
    # It draws where the target draws.
    assert grown < NUM_PICKS * target.info.vocab_size * torch.float32.itemsize
    assert slim.info.weight_bytes == slim.info.kv_bytes == 0


def test_only_the_fast_engine_skips_layers() -> None:
    member = LayerSkipMember(kind="layer_skip", name="slim", of="target", mask=("1.mlp",))
    with pytest.raises(EngineError, match=r"'slim'.*fast engine.*'target'"):
        load_slim(member, ToyEngine())
