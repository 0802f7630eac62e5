"""Exact mode: a position's logits are a function of the tokens before it, bit for bit."""

import random
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import LlamaConfig, PretrainedConfig, Qwen2Config, Qwen3Config

from specrouter_dist.config import Dtype, SamplingParams
from specrouter_dist.engine import ragged
from specrouter_dist.engine.eager import EagerDecoder
from specrouter_dist.engine.exactness import Span, padded_rows, rows_at_once, split_spans
from specrouter_dist.engine.fast import FastEngine
from specrouter_dist.engine.interface import Extension
from tests.unit.engine.fast_models import load, logged_logits, only_eager, save, text, threads

GREEDY = SamplingParams(temperature=0.0)
SIZES: dict[str, Any] = {"num_hidden_layers": 2, "max_position_embeddings": 512}
CONFIGS: dict[str, PretrainedConfig] = {
    "tied_target": LlamaConfig(
        **SIZES,
        vocab_size=4096,
        hidden_size=288,
        intermediate_size=768,
        num_attention_heads=6,
        tie_word_embeddings=True,
    ),
    "odd_sizes": LlamaConfig(
        **SIZES,
        vocab_size=301,
        hidden_size=100,
        intermediate_size=171,
        num_attention_heads=5,
        num_key_value_heads=1,
    ),
    "odd_panels": LlamaConfig(
        **SIZES,
        vocab_size=301,
        hidden_size=100,
        intermediate_size=171,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
    ),
    "one_head": Qwen3Config(
        **SIZES,
        vocab_size=200,
        hidden_size=64,
        intermediate_size=100,
        num_attention_heads=1,
        num_key_value_heads=1,
        head_dim=80,
    ),
    "narrow_heads": LlamaConfig(
        **SIZES,
        vocab_size=200,
        hidden_size=120,
        intermediate_size=100,
        num_attention_heads=5,
        num_key_value_heads=5,
        head_dim=24,
    ),
    "wide": Qwen2Config(
        **(SIZES | {"num_hidden_layers": 1}),
        vocab_size=500,
        hidden_size=1024,
        intermediate_size=1500,
        num_attention_heads=16,
        num_key_value_heads=4,
    ),
}
NUM_TOKENS = 150
BLOCKS = (2, 3, 4, 5, 6, 7, 8, 9, 13, 16, 17, 33, 64, 65, 100, 150)


@pytest.fixture(scope="module", params=list(CONFIGS))
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp(request.param)
    save(CONFIGS[request.param], directory)
    return directory


@pytest.fixture(scope="module", params=list(Dtype))
def engine(request: pytest.FixtureRequest, saved: Path, decoder: str) -> FastEngine:
    return load(saved, dtype=request.param, kv_tokens=64 * 20)


@pytest.fixture(scope="module")
def one_by_one(engine: FastEngine) -> Tensor:
    """Logits of a session alone, fed a token at a time, by one thread."""
    with threads(1):
        return logits_in_blocks(engine, 1)


def tokens_of(engine: FastEngine) -> "array[int]":
    return text(engine.info.vocab_size, NUM_TOKENS)


def logits_in_blocks(engine: FastEngine, size: int) -> Tensor:
    tokens = tokens_of(engine)
    with logged_logits() as log:
        slot = engine.open(GREEDY, 1, NUM_TOKENS)
        for start in range(0, NUM_TOKENS, size):
            part = tokens[start : start + size]
            engine.extend([Extension(slot, start, part, len(part))])
        engine.close(slot)
        return log.of(slot, NUM_TOKENS)


def test_the_block_size_changes_nothing(engine: FastEngine, one_by_one: Tensor) -> None:
    for size in BLOCKS:
        assert torch.equal(logits_in_blocks(engine, size), one_by_one), f"blocks of {size}"


def test_the_number_of_threads_changes_nothing(engine: FastEngine, one_by_one: Tensor) -> None:
    with threads(2):
        for size in (70, 150):
            assert torch.equal(logits_in_blocks(engine, size), one_by_one), f"blocks of {size}"


@contextmanager
def counted_reads() -> Iterator[list[int]]:
    """How many sessions each call of torch's attention reads."""
    batches: list[int] = []
    attention = ragged.F.scaled_dot_product_attention

    def counted(queries: Tensor, *rest: Tensor, **options: Any) -> Tensor:
        batches.append(len(queries))
        return attention(queries, *rest, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ragged.F, "scaled_dot_product_attention", counted)
        yield batches


@pytest.mark.parametrize("size", [1, 3, 8])
def test_reading_sessions_at_once_changes_nothing(
    engine: FastEngine, one_by_one: Tensor, size: int
) -> None:
    tokens = tokens_of(engine)
    with logged_logits() as log, counted_reads() as batches:
        # Four runs of pages at equal distances, in two of which another session is a block ahead.
        slots = [engine.open(GREEDY, 1, NUM_TOKENS) for _ in range(4)]
        engine.extend([Extension(slots[3], 0, tokens[:size], size)])
        for start in range(0, NUM_TOKENS - 2 * size, size):
            parts = [(slot, start + size * (slot == slots[3])) for slot in reversed(slots)]
            engine.extend([Extension(slot, at, tokens[at : at + size], size) for slot, at in parts])
        for slot in slots:
            engine.close(slot)
        for slot in slots:
            rows = log.of(slot, NUM_TOKENS - 2 * size)
            assert torch.equal(rows, one_by_one[: len(rows)])
    if isinstance(engine._decoder, EagerDecoder):
        assert max(batches) == 4 and batches.count(4) > batches.count(1)


def scatter_free_pages(engine: FastEngine) -> list[int]:
    """Leaves no run of two free pages in the lower half of the cache."""
    slots = [engine.open(GREEDY, 1, 64) for _ in range(7)]
    filler = engine.open(GREEDY, 1, 512)
    for slot in slots[::2]:
        engine.close(slot)
    return [*slots[1::2], filler]


@pytest.mark.parametrize("seed", [1, 2])
def test_batch_rollbacks_and_placement_change_nothing(
    engine: FastEngine, one_by_one: Tensor, seed: int
) -> None:
    rng = random.Random(seed)
    tokens = tokens_of(engine)
    with logged_logits() as log:
        fillers = scatter_free_pages(engine)
        fed = {engine.open(GREEDY, 1, NUM_TOKENS): 0 for _ in range(3)}
        while unfinished := [slot for slot in fed if fed[slot] < NUM_TOKENS]:
            rng.shuffle(unfinished)
            batch = []
            for slot in unfinished[: rng.randint(1, 3)]:
                start = max(0, fed[slot] - rng.choice([0, 0, 0, 1, 5, 70]))
                stop = min(NUM_TOKENS, start + rng.choice([1, 1, 2, 4, 5, 9, 17, 40, 90]))
                part = tokens[start:stop]
                batch.append(Extension(slot, start, part, len(part)))
                fed[slot] = stop
            engine.extend(batch)
        for slot in fed:
            assert torch.equal(log.of(slot, NUM_TOKENS), one_by_one)
        for slot in [*fed, *fillers]:
            engine.close(slot)


def test_scattered_and_contiguous_placement_are_both_tried(engine: FastEngine) -> None:
    fillers = scatter_free_pages(engine)
    slots = [engine.open(GREEDY, 1, NUM_TOKENS) for _ in range(3)]
    runs = {engine._sessions[slot].table.first_row is not None for slot in slots}
    for slot in [*slots, *fillers]:
        engine.close(slot)
    assert runs == {True, False}


def test_a_fork_continues_with_the_same_bits(engine: FastEngine, one_by_one: Tensor) -> None:
    tokens = tokens_of(engine)
    with logged_logits() as log:
        slot = engine.open(GREEDY, 1, NUM_TOKENS)
        engine.extend([Extension(slot, 0, tokens[:120], 120)])
        fork = engine.fork(slot, 101)
        engine.extend([Extension(slot, 30, array("I", [1] * 40), 1)])
        engine.extend([Extension(fork, 101, tokens[101:], len(tokens) - 101)])
        for position in range(101, NUM_TOKENS):
            assert torch.equal(log.rows[fork, position], one_by_one[position])
        engine.close(slot)
        engine.close(fork)


class OperationLog(TorchDispatchMode):
    """Names of the operations that run, and the sizes of what they write."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[str, int]] = []

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        size = result.numel() if isinstance(result, Tensor) else 0
        copied = 0 if function.is_view else size
        self.operations.append((str(function), copied))
        return result


def test_a_rollback_costs_the_same_at_any_length(tmp_path: Path) -> None:
    config = LlamaConfig(
        **(SIZES | {"max_position_embeddings": 4096}),
        vocab_size=128,
        hidden_size=32,
        intermediate_size=48,
        num_attention_heads=2,
    )
    save(config, tmp_path)
    with only_eager():  # a compiled forward is one operation
        engine = load(tmp_path, kv_tokens=4096)
    logs = []
    for length in (64, 2048):
        slot = engine.open(GREEDY, 1, 2048)
        for start in range(0, length, 256):
            engine.extend([Extension(slot, start, array("I", [3] * min(256, length - start)), 0)])
        engine.extend([Extension(slot, length - 1, array("I", [4]), 1)])
        with OperationLog() as log:
            engine.extend([Extension(slot, length - 9, array("I", [4, 5, 6]), 3)])
        logs.append(log.operations)
    assert len(logs[0]) > 30
    assert logs[0] == logs[1]


@given(row=st.integers(0, 50), start=st.integers(0, 500), count=st.integers(1, 300))
@settings(max_examples=100, deadline=None)
def test_spans_cover_a_block_in_order_and_depend_on_positions_only(
    row: int, start: int, count: int
) -> None:
    spans = list(split_spans(row, start, count))
    rows = [(span.row + i, span.position + i) for span in spans for i in range(span.count)]
    assert rows == [(row + i, start + i) for i in range(count)]
    for span in spans:
        assert span.keys % 64 == 0
        for position in (span.position, span.position + span.count - 1):
            assert span.keys - 64 <= position < span.keys


def test_a_block_is_split_where_attention_lengthens() -> None:
    assert list(split_spans(2, 62, 70)) == [
        Span(2, 62, 2, 64),
        Span(4, 64, 64, 128),
        Span(68, 128, 4, 192),
    ]


@pytest.mark.parametrize(
    ("num_rows", "padded"), [(1, 4), (4, 4), (5, 8), (32, 32), (33, 40), (65, 96), (257, 384)]
)
def test_rows_are_rounded_up_to_few_sizes(num_rows: int, padded: int) -> None:
    assert padded_rows(num_rows) == padded
    assert padded_rows(padded) == padded


def test_elementwise_work_stays_below_what_torch_splits_among_threads() -> None:
    cpu = torch.device("cpu")
    assert rows_at_once(768, cpu) * 768 < 32768
    assert rows_at_once(1, cpu) == 32767
    assert rows_at_once(100_000, cpu) == 1
    assert rows_at_once(768, torch.device("cuda")) > 1 << 40
