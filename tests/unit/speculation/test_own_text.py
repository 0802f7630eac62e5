"""A stage that continues its own text beside a model."""

from array import array

from hypothesis import given
from hypothesis import strategies as st

from specrouter_dist.config import EdgeKnobs
from specrouter_dist.speculation.ending import StopIds
from specrouter_dist.speculation.messages import EdgeId
from specrouter_dist.speculation.own_text import OwnText
from specrouter_dist.speculation.stage import Stage
from specrouter_dist.speculation.tokens import TokenBuffer

KNOBS = EdgeKnobs(window=4, burst=4, patience=4, match_tokens=2)


def stage(tokens: list[int], knobs: EdgeKnobs = KNOBS) -> Stage:
    """Its prompt is cached, and a drafter that says nothing is attached."""
    made = Stage(tokens, prompt_tokens=len(tokens), end=100, ending=StopIds(()))
    made.kv_len = len(tokens) - 1
    made.attach_upstream(EdgeId(1, 1, 1), knobs)
    # The first token never waits.
    made.next_step()
    made.on_step_done(array("I", [tokens[0]]))
    return made


def test_a_match_is_verified_without_waiting_for_upstream() -> None:
    made = stage([1, 2, 3, 4, 5, 6, 7])
    assert made.next_step() is None, "1 alone is no match of two"
    assert made.wait_ms is not None
    made.on_deadline()
    made.next_step()
    made.on_step_done(array("I", [2]))
    step = made.next_step()
    assert step is not None and step.from_own_text
    assert list(step.tokens) == [2, 3, 4, 5, 6]
    assert made.wait_ms is None
    made.on_step_done(array("I", [3, 4, 9, 0, 0]))
    assert list(made.tokens.slice(7, 99)) == [1, 2, 3, 4, 9]
    assert (made.own_counts.proposed, made.own_counts.accepted) == (4, 2)
    assert made.counts.proposed == 0


def test_without_the_knob_the_text_is_not_looked_at() -> None:
    plain = EdgeKnobs(window=4, burst=4, patience=4)
    made = stage([1, 1, 1, 1, 1], plain)
    assert made.next_step() is None


@given(st.lists(st.tuples(st.integers(0, 8), st.lists(st.integers(0, 2), max_size=6)), max_size=12))
def test_it_finds_the_same_however_the_stream_has_come_about(
    changes: list[tuple[int, list[int]]],
) -> None:
    """Each change cuts some of the end and appends; sometimes nobody asks in between."""
    own, stream = OwnText(2), TokenBuffer([0, 1])
    for num_cut, new in changes:
        position = max(1, len(stream) - num_cut)
        if position < len(stream):
            stream.truncate(position)
            own.on_cut(position)
        stream.append(new)
        if num_cut % 2:
            fresh = OwnText(2).continuation(stream, 5)
            assert own.continuation(stream, 5) == fresh
