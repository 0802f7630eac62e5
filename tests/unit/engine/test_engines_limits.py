"""What every engine over a real model refuses, reserves and says of itself."""

from array import array
from pathlib import Path

import pytest
from transformers import MistralConfig

from specrouter_dist.config import Dtype
from specrouter_dist.engine.fast import FastEngine
from specrouter_dist.engine.general import GeneralEngine
from specrouter_dist.errors import ConfigError, EngineError, NoRoomError
from tests.unit.engine.tiny_models import (
    CONTEXT,
    GREEDY,
    PROMPT,
    SIZES,
    VOCAB,
    Load,
    TinyModel,
    feed,
    generate,
)


def test_ids_past_num_ids_are_never_drawn(model: TinyModel, load: Load) -> None:
    engine = load(num_ids=50)
    assert engine.info.vocab_size == 50
    prompt = [5, 17, 3, 3, 41]
    tokens = generate(engine, GREEDY, prompt, 60)
    logits = model.logits([*prompt, *tokens])[len(prompt) - 1 : -1]
    assert tokens == logits[:, :50].argmax(dim=1).tolist()
    assert max(tokens) < 50 <= int(logits.argmax(dim=1).max())


def test_slots_and_reservations_run_out_and_come_back(load: Load) -> None:
    engine = load(max_sessions=2, kv_tokens=256)
    first = engine.open(GREEDY, 1, 128)
    second = engine.open(GREEDY, 1, 64)
    with pytest.raises(NoRoomError):
        engine.open(GREEDY, 1, 1)
    engine.close(second)
    with pytest.raises(NoRoomError):
        engine.open(GREEDY, 1, 129)
    second = engine.open(GREEDY, 1, 128)
    engine.close(first)
    engine.close(second)
    slot = engine.open(GREEDY, 1, 256)
    expected = generate(load(), GREEDY, PROMPT, 20)
    assert feed(engine, slot, 0, PROMPT, 1, 19).tokens.tolist() == expected


@pytest.mark.parametrize(
    ("start", "tokens", "picks", "drafts"),
    [
        (4, [1], 1, 0),
        (3, [], 0, 0),
        (3, [1], 2, 0),
        (3, [1], 0, 1),
        (3, [1] * 8, 1, 0),
        (3, [1], 1, 7),
    ],
)
def test_impossible_extensions_are_refused_and_change_nothing(
    load: Load, start: int, tokens: list[int], picks: int, drafts: int
) -> None:
    engine = load()
    slot = engine.open(GREEDY, 3, 10)
    feed(engine, slot, 0, PROMPT[:3], 0)
    with pytest.raises(EngineError):
        feed(engine, slot, start, tokens, picks, drafts)
    assert feed(engine, slot, 2, PROMPT[2:3], 1, 7).tokens == array(
        "I", generate(engine, GREEDY, PROMPT[:3], 8)
    )


@pytest.mark.parametrize("size", [0, CONTEXT + 1])
def test_a_reservation_must_fit_the_context(load: Load, size: int) -> None:
    with pytest.raises(EngineError, match=f"max_total_tokens: must be 1 to {CONTEXT}, got {size}"):
        load().open(GREEDY, 1, size)


def test_info_describes_the_model(model: TinyModel, load: Load) -> None:
    info = load(dtype=Dtype.FP32, kv_tokens=1024).info
    config = model.reference.config
    assert (info.vocab_size, info.context_tokens, info.max_sessions) == (VOCAB, CONTEXT, 6)
    assert info.num_parameters == sum(p.numel() for p in model.reference.parameters())
    assert info.weight_bytes >= 0.99 * info.num_parameters * 4, "norms may be folded away"
    head_dim = getattr(config, "head_dim", None) or 12
    per_token = 2 * config.num_hidden_layers * config.num_key_value_heads * head_dim * 4
    assert info.kv_bytes >= 1024 * per_token


@pytest.mark.parametrize("change", [{"context_tokens": CONTEXT + 1}, {"num_ids": VOCAB + 1}])
def test_sizes_that_do_not_fit_the_model_are_refused(load: Load, change: dict[str, int]) -> None:
    (name,) = change
    with pytest.raises(ConfigError, match=f"^{name}: ") as caught:
        load(**change)
    assert caught.value.field == name


def test_the_fast_engine_refuses_other_architectures(tmp_path: Path) -> None:
    MistralConfig(**SIZES, num_key_value_heads=1, sliding_window=16).save_pretrained(tmp_path)
    for engine in (FastEngine, GeneralEngine):
        with pytest.raises(EngineError):
            engine.load(
                tmp_path,
                dtype=Dtype.FP32,
                device="cpu",
                context_tokens=None,
                kv_tokens=512,
                max_sessions=1,
                num_ids=None,
                exact=True,
            )
