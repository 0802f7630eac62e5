"""Text appears piece by piece exactly as it would at once."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import Tokenizer as RawTokenizer
from tokenizers import decoders, models

from specrouter_dist.errors import EngineError
from specrouter_dist.pools.loading import POOLS_DIRECTORY
from specrouter_dist.text.detokenizer import Detokenizer
from specrouter_dist.text.token_bytes import build_token_bytes
from specrouter_dist.text.tokenizer import Tokenizer

TARGET = POOLS_DIRECTORY / "tiny" / "target"
TOKENIZER = Tokenizer.load(TARGET)
RAW = RawTokenizer.from_file(str(TARGET / "tokenizer.json"))

texts = st.text(min_size=1, max_size=60)
token_ids = st.lists(st.integers(0, TOKENIZER.num_ids - 1), max_size=60)


def in_pieces(detokenizer: Detokenizer, tokens: Sequence[int], cuts: Sequence[int]) -> list[str]:
    borders = [0, *sorted(cut % (len(tokens) + 1) for cut in cuts), len(tokens)]
    pieces = [detokenizer.push(tokens[a:b]) for a, b in pairwise(borders)]
    return [*pieces, detokenizer.finish()]


@given(texts, st.lists(st.integers(0, 1000), max_size=10))
@example("🙂👩‍👩‍👧 日本語 \u0301e\ufffd", [1, 2, 3, 4, 5, 6, 7])
def test_a_text_comes_back_however_its_tokens_are_cut(text: str, cuts: list[int]) -> None:
    tokens = TOKENIZER.encode(text)
    assert "".join(in_pieces(TOKENIZER.detokenizer(), tokens, cuts)) == text


@given(token_ids, st.lists(st.integers(0, 1000), max_size=10))
def test_any_tokens_in_any_pieces_give_the_text_that_the_library_gives(
    tokens: list[int], cuts: list[int]
) -> None:
    expected = RAW.decode(tokens, skip_special_tokens=True)
    assert "".join(in_pieces(TOKENIZER.detokenizer(), tokens, cuts)) == expected
    assert TOKENIZER.decode(tokens) == expected


@given(texts)
def test_no_piece_ends_within_a_character(text: str) -> None:
    detokenizer = TOKENIZER.detokenizer()
    shown = ""
    for token in TOKENIZER.encode(text):
        shown += detokenizer.push([token])
        assert text.startswith(shown)
    assert (shown, detokenizer.finish()) == (text, "")


def test_bytes_of_an_unfinished_character_become_one_replacement_at_the_end() -> None:
    tokens = TOKENIZER.encode("🙂")
    assert len(tokens) > 1
    detokenizer = TOKENIZER.detokenizer()
    assert detokenizer.push(tokens[:-1]) == ""
    assert detokenizer.finish() == "\ufffd"


def test_special_tokens_give_no_text() -> None:
    assert TOKENIZER.decode([3, *TOKENIZER.encode("hi"), 0]) == "hi"


# A tokenizer of the SentencePiece kind (Llama-2, TinyLlama, Gemma): words with ▁, else bytes.
WORDS = ["<unk>", "<s>", "</s>", "▁Hello", "▁world", "▁", "a", "é"]
FALLBACK_VOCABULARY = {
    **dict(enumerate(WORDS)),
    **{len(WORDS) + byte: f"<0x{byte:02X}>" for byte in range(256)},
}


def byte_fallback(*, strip: bool) -> tuple[RawTokenizer, list[bytes], bool]:
    vocabulary = {token: i for i, token in FALLBACK_VOCABULARY.items()}
    raw = RawTokenizer(models.BPE(vocab=vocabulary, merges=[], byte_fallback=True))
    steps: list[Any] = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    raw.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if strip else steps)
    state = raw.decoder.__getstate__()
    return raw, *build_token_bytes(FALLBACK_VOCABULARY, frozenset({0, 1, 2}), state)


@pytest.mark.parametrize("strip", [True, False])
@given(text=texts, words=st.lists(st.sampled_from([3, 4, 5, 6, 7]), max_size=5))
def test_byte_fallback_tokens_give_the_text_that_the_library_gives(
    strip: bool, text: str, words: list[int]
) -> None:
    raw, token_bytes, strips_space = byte_fallback(strip=strip)
    assert strips_space == strip
    tokens = [*words, *(len(WORDS) + byte for byte in text.encode()), *words]
    detokenizer = Detokenizer(token_bytes)
    shown = "".join(in_pieces(detokenizer, tokens, range(len(tokens))))
    assert (shown.removeprefix(" ") if strip else shown) == raw.decode(tokens)


def test_a_continuation_keeps_the_space_before_its_first_word() -> None:
    _, token_bytes, _ = byte_fallback(strip=True)
    assert Detokenizer(token_bytes).push([4]) == " world"


@pytest.mark.parametrize("decoder", [b"null", b'{"type": "WordPiece"}'])
def test_another_kind_of_decoder_is_refused_by_name(decoder: bytes) -> None:
    with pytest.raises(EngineError, match=r"decoder (none|WordPiece) is not supported; accepted"):
        build_token_bytes({0: "a"}, frozenset(), decoder)


def test_an_added_token_with_characters_outside_the_byte_alphabet_is_written_as_it_is() -> None:
    table, _ = build_token_bytes({0: "Ġhi", 1: "<|im end|>"}, frozenset(), b'{"type":"ByteLevel"}')
    assert table == [b" hi", b"<|im end|>"]
