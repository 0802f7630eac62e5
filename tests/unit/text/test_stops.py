"""Stop strings end the text wherever the borders of tokens and pieces lie."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from specrouter_dist.pools.loading import POOLS_DIRECTORY
from specrouter_dist.text.detokenizer import Detokenizer
from specrouter_dist.text.stops import OutputText, StopFinder
from specrouter_dist.text.tokenizer import Tokenizer

TOKENIZER = Tokenizer.load(POOLS_DIRECTORY / "tiny" / "target")

# Few letters, so that stops overlap, nest and begin again within themselves.
letters = st.text("ab€", min_size=1, max_size=30)
stops = st.lists(st.text("ab€", min_size=1, max_size=4), min_size=1, max_size=4)


def first_stop(text: str, stop: list[str], start: int = 0) -> tuple[int, int] | None:
    """Begin and end of the stop that is complete first, of those the longest; by brute force."""
    for end in range(start + 1, len(text) + 1):
        begins = [end - len(s) for s in stop if text[:end].endswith(s)]
        if begins:
            return min(begins), end
    return None


def output_text(stop: list[str], min_tokens: int = 0) -> OutputText:
    """One token per byte."""
    bytes_of_ids = [bytes([byte]) for byte in range(256)]
    return OutputText(Detokenizer(bytes_of_ids), stop, min_tokens=min_tokens)


@given(letters, stops, st.lists(st.integers(0, 100), max_size=8))
def test_the_first_stop_to_be_complete_ends_the_text(
    text: str, stop: list[str], cuts: list[int]
) -> None:
    tokens = text.encode()
    borders = [0, *sorted(cut % (len(tokens) + 1) for cut in cuts), len(tokens)]
    output, shown, counted, found = output_text(stop), "", 0, None
    for a, b in pairwise(borders):
        piece = output.push(tokens[a:b])
        shown, counted, found = shown + piece.text, counted + piece.num_tokens, piece.stop
        if found is not None:
            break
    shown += output.finish()
    match = first_stop(text, stop)
    if match is None:
        assert (shown, counted, found) == (text, len(tokens), None)
    else:
        begin, end = match
        assert (shown, found) == (text[:begin], text[begin:end])
        assert counted == len(text[:end].encode())


@given(letters, stops)
def test_text_that_could_begin_a_stop_is_held_back_and_nothing_else(
    text: str, stop: list[str]
) -> None:
    finder, shown = StopFinder(stop), ""
    for i, character in enumerate(text):
        part, found = finder.push(character)
        shown += part
        if found is not None:
            return
        held = text[len(shown) : i + 1]
        assert not held or any(s.startswith(held) for s in stop)
        tails = [text[k : i + 1] for k in range(i + 1)]
        longest = next((t for t in tails if any(s.startswith(t) for s in stop)), "")
        assert held == longest


@given(letters, stops, st.integers(0, 20))
def test_no_stop_counts_before_the_fewest_tokens(
    text: str, stop: list[str], min_tokens: int
) -> None:
    text = text.replace("€", "c")  # one token per character
    stop = [s.replace("€", "c") for s in stop]
    output = output_text(stop, min_tokens)
    piece = output.push(text.encode())
    match = first_stop(text, stop, start=max(0, min_tokens - 1))
    begin, end = match or (len(text), len(text))
    assert piece.num_tokens == end
    assert piece.text + output.finish() == text[:begin]


def test_a_stop_across_tokens_of_the_real_tokenizer() -> None:
    text = "one two\n\nQuestion: three"
    tokens = TOKENIZER.encode(text)
    output = OutputText(TOKENIZER.detokenizer(), ["\n\nQuest"])
    pieces = []
    for token in tokens:
        pieces.append(output.push([token]))
        if pieces[-1].stop:
            break
    assert "".join(piece.text for piece in pieces) + output.finish() == "one two"
    counted = sum(piece.num_tokens for piece in pieces)
    assert "\n\nQuest" in TOKENIZER.decode(tokens[:counted])
    assert "\n\nQuest" not in TOKENIZER.decode(tokens[: counted - 1])


@pytest.mark.parametrize("stop", [[], ["never"]])
def test_without_a_stop_every_token_counts_and_the_end_is_shown(stop: list[str]) -> None:
    output = OutputText(TOKENIZER.detokenizer(), stop)
    tokens = TOKENIZER.encode("all of it, nev")
    piece = output.push(tokens)
    assert (piece.num_tokens, piece.stop) == (len(tokens), None)
    assert piece.text + output.finish() == "all of it, nev"
