"""The proposer without a model."""

from array import array
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from specrouter_dist.speculation.lookup import LookupStage
from specrouter_dist.speculation.messages import EdgeId, Proposals, Truth
from tests.unit.speculation.oracle import LOOKUP_MATCH, longest_match

EDGE = EdgeId(1, 1, 1)


def attached(
    tokens: Sequence[int],
    *,
    limit: int = 100,
    end: int = 100,
    matches: tuple[int, int] = LOOKUP_MATCH,
) -> LookupStage:
    stage = LookupStage(
        tokens[:1],
        prompt_tokens=1,
        end=end,
        min_match_tokens=matches[0],
        max_match_tokens=matches[1],
    )
    stage.attach_downstream(Truth(EDGE, 1, 0, array("I", tokens), limit), end)
    return stage


def answer(stage: LookupStage) -> Proposals:
    [message] = stage.flush()
    assert isinstance(message, Proposals)
    return message


def test_it_continues_what_followed_the_longest_match() -> None:
    proposals = answer(attached([1, 2, 3, 50, 9, 3, 60, 1, 2, 3], limit=12))
    assert proposals.tokens.tolist() == [50, 9]
    assert (proposals.start, proposals.ack, proposals.version_seen) == (10, 10, 1)


def test_of_equally_long_matches_the_newest_is_continued() -> None:
    assert answer(attached([3, 50, 3, 60, 3], limit=6)).tokens.tolist() == [60]


def test_a_newer_match_that_is_too_short_of_tokens_gives_way_to_an_older_one() -> None:
    assert answer(attached([3, 50, 51, 3, 60, 3], limit=9)).tokens.tolist() == [50, 51, 3]


def test_nothing_follows_when_nothing_matches() -> None:
    proposals = answer(attached([1, 2, 3, 4]))
    assert proposals.tokens.tolist() == []
    assert not proposals.more


def test_nothing_follows_a_continuation_that_reaches_the_end_of_the_text() -> None:
    proposals = answer(attached([1, 2, 9, 1, 2], limit=100))
    assert proposals.tokens.tolist() == [9, 1, 2]
    assert not proposals.more


def test_more_follows_one_that_only_the_limit_cut() -> None:
    proposals = answer(attached([1, 2, 9, 8, 1, 2], limit=8))
    assert proposals.tokens.tolist() == [9, 8]
    assert proposals.more


def test_nothing_is_proposed_at_or_beyond_the_end() -> None:
    proposals = answer(attached([1, 2, 9, 8, 7, 1, 2], limit=50, end=9))
    assert proposals.tokens.tolist() == [9, 8]


def test_a_match_shorter_than_asked_for_is_none() -> None:
    tokens = [1, 2, 9, 5, 2]
    assert answer(attached(tokens, matches=(1, 3))).tokens.tolist() == [9, 5, 2]
    assert answer(attached(tokens, matches=(2, 3))).tokens.tolist() == []


def test_every_truth_is_answered_once_and_the_last_of_a_tick_only() -> None:
    stage = attached([1, 2, 1])
    stage.on_truth(Truth(EDGE, 2, 3, array("I", [5]), 100))
    stage.on_truth(Truth(EDGE, 3, 3, array("I", [5, 1]), 100))
    proposals = answer(stage)
    assert (proposals.version_seen, proposals.tokens.tolist()) == (3, [2, 1, 5, 1])
    assert stage.flush() == []


def test_truths_of_other_edges_and_older_ones_are_from_the_past() -> None:
    stage = attached([1, 2, 1])
    stage.flush()
    stage.on_truth(Truth(EdgeId(1, 2, 1), 9, 3, array("I", [7]), 100))
    stage.on_truth(Truth(EDGE, 1, 2, array("I", [7]), 100))
    assert stage.flush() == []
    assert stage.tokens.slice(0, 9).tolist() == [1, 2, 1]


def test_a_parked_one_is_silent_until_it_is_attached_again() -> None:
    stage = attached([1, 2, 1])
    stage.detach_downstream()
    assert stage.flush() == []
    stage.attach_downstream(Truth(EdgeId(1, 2, 1), 1, 0, array("I", [1, 2, 1, 2]), 100), 100)
    assert answer(stage).tokens.tolist() == [1, 2]


@given(
    st.sampled_from([(1, 3), (2, 8), (3, 3)]),
    st.lists(st.tuples(st.integers(0, 12), st.lists(st.integers(0, 2), min_size=1, max_size=6))),
)
def test_after_any_cuts_and_growth_it_answers_as_one_that_never_saw_them(
    matches: tuple[int, int], truths: list[tuple[int, list[int]]]
) -> None:
    stage = attached([0], end=1000, matches=matches)
    for version, (num_taken_back, tokens) in enumerate(truths, start=2):
        base = max(1, len(stage.tokens) - num_taken_back)
        stage.on_truth(Truth(EDGE, version, base, array("I", tokens), base + len(tokens) + 4))
        stream = stage.tokens.slice(0, len(stage.tokens))
        assert stream[base:].tolist() == tokens
        assert answer(stage).tokens == longest_match(stream, 4, matches)
