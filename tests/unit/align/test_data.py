"""Rows become tokens; nothing of dev is ever trained on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from specrouter_dist.align.data import (
    Row,
    batches_by_length,
    encode_examples,
    is_chat_row,
    pack,
    pad,
    read_rows,
    rows_per_task,
)
from tests.unit.align.models import rows, tokenizer_folder, write_data


def tokenizer(folder: Path) -> Tokenizer:
    return Tokenizer.from_file(str(tokenizer_folder(folder) / "tokenizer.json"))


def test_packing_keeps_the_order_and_drops_only_the_remainder(tmp_path: Path) -> None:
    examples = encode_examples(tokenizer(tmp_path), rows("train", 10), 0.3, 64)
    stream = [token for example in examples for token in example.tokens]
    packed = pack(examples, 8)
    assert packed.flatten().tolist() == stream[: len(stream) // 8 * 8]


def test_an_example_is_prompt_completion_end(tmp_path: Path) -> None:
    encoder = tokenizer(tmp_path)
    row = rows("train", 1)[0]
    (bare,) = encode_examples(encoder, [row], 0.0, 64)
    assert encoder.decode(bare.tokens[: bare.prompt_length]) == row.prompt
    assert encoder.decode(bare.tokens[bare.prompt_length : -1]) == row.completion
    assert bare.tokens[-1] == encoder.token_to_id("<|endoftext|>")
    (chat,) = encode_examples(encoder, [row], 1.0, 64)
    shown = encoder.decode(chat.tokens[: chat.prompt_length], skip_special_tokens=False)
    assert shown == f"<|user|>{row.prompt}<|assistant|>"


def test_the_chat_form_is_a_property_of_the_prompt() -> None:
    many = [Row("code", f"prompt {i}", "") for i in range(2000)]
    share = sum(is_chat_row(row, 0.3) for row in many) / len(many)
    assert 0.25 < share < 0.35
    assert all(is_chat_row(row, 0.6) for row in many if is_chat_row(row, 0.3))


def test_long_texts_are_cut_and_endless_prompts_left_out(tmp_path: Path) -> None:
    long_rows = [Row("code", "a b c d " * 50, "x"), Row("code", "a", "b c d e " * 50)]
    (kept,) = encode_examples(tokenizer(tmp_path), long_rows, 0.0, 32)
    assert len(kept.tokens) == 32 and kept.prompt_length < 32


def test_batches_cover_everything_once_within_their_size() -> None:
    lengths = np.random.default_rng(0).integers(1, 40, 200).tolist()
    batches = list(batches_by_length(lengths, 100, np.random.default_rng(1)))
    assert sorted(index for batch in batches for index in batch) == list(range(200))
    assert all(len(batch) * max(lengths[i] for i in batch) <= 100 for batch in batches)


def test_only_positions_that_predict_a_completion_are_marked(tmp_path: Path) -> None:
    examples = encode_examples(tokenizer(tmp_path), rows("train", 6), 0.3, 64)
    tokens, predicts = pad(examples)
    for row, example in enumerate(examples):
        marked = predicts[row].nonzero().flatten() + 1
        assert tokens[row, marked].tolist() == list(example.tokens[example.prompt_length :])


def test_rows_are_read_and_chosen_by_task(tmp_path: Path) -> None:
    write_data(tmp_path)
    read = read_rows(tmp_path / "dev.jsonl.gz")
    assert read == rows("dev", 8)
    assert [row.task for row in rows_per_task(read, 3)] == ["code"] * 3 + ["math"] * 3
