"""Frames come back as they went, and nothing else is taken for a frame."""

from array import array
from dataclasses import replace
from typing import Any

import msgpack
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from specrouter_dist.config import EdgeKnobs, Plan, SamplingParams
from specrouter_dist.errors import FrameError
from specrouter_dist.links.control import MAX_ARRAY_LEN, PROTOCOL_VERSION, TAGS
from specrouter_dist.links.frames import (
    Attach,
    Detach,
    EdgeId,
    Output,
    Proposals,
    Replan,
    Submit,
    Truth,
    WireMessage,
    decode,
    encode,
)
from tests.unit.links.strategies import by_kind, messages

ONLY_OURS = f"only frames of protocol version {PROTOCOL_VERSION}"
EDGE = EdgeId(session=7, attach=1, incarnation=9)
TRUTH = Truth(EDGE, version=2, base=3, tokens=array("I", [5, 6]), limit=20)
PROPOSALS = Proposals(EDGE, 2, 3, 4, 5, array("I", [5, 6]), more=True)
ATTACH = Attach(
    edge=EDGE,
    version=0,
    plan_number=1,
    chain=("drafter", "middle"),
    edges=(EdgeKnobs(),),
    prompt_tokens=1,
    tokens=array("I", [5, 6]),
    sampling=SamplingParams(),
    end=100,
    limit=20,
    block_tokens=4,
    outcomes=2,
    task="code",
)


def test_every_kind_of_message_has_a_tag_and_a_strategy() -> None:
    assert set(by_kind) == set(TAGS) == set(WireMessage.__args__)
    assert len(set(TAGS.values())) == len(TAGS)


@pytest.mark.parametrize("kind", by_kind, ids=lambda kind: kind.__name__)
def test_a_message_comes_back_as_it_went(kind: type) -> None:
    @settings(max_examples=25, deadline=None)
    @given(by_kind[kind])
    def round_trip(message: WireMessage) -> None:
        assert decode(encode([message])) == [message]
        assert decode(memoryview(encode([message]))) == [message]

    round_trip()


@settings(max_examples=15, deadline=None)
@given(st.lists(messages, max_size=40))
def test_a_frame_keeps_the_order_of_its_messages(sent: list[WireMessage]) -> None:
    assert decode(encode(sent)) == sent


def test_tokens_are_little_endian_uint32() -> None:
    assert b"\xc4\x08\x05\x00\x00\x00\x06\x00\x00\x00" in encode([TRUTH])


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_random_bytes_are_refused(payload: bytes) -> None:
    with pytest.raises(FrameError):
        decode(payload)
    # Behind a valid beginning as well.
    with pytest.raises(FrameError):
        decode(bytes((0x92, PROTOCOL_VERSION)) + payload)


@settings(max_examples=150, deadline=None)
@given(st.lists(messages, min_size=1, max_size=2), st.data())
def test_a_damaged_frame_is_read_or_refused_with_a_frame_error(
    sent: list[WireMessage], data: st.DataObject
) -> None:
    payload = bytearray(encode(sent))
    for _ in range(data.draw(st.integers(1, 4))):
        where = data.draw(st.integers(0, len(payload) - 1))
        how = data.draw(st.sampled_from(["change", "cut", "insert"]))
        if how == "change":
            payload[where] = data.draw(st.integers(0, 255))
        elif how == "cut":
            del payload[where : where + data.draw(st.integers(1, 8))]
        else:
            payload[where:where] = data.draw(st.binary(min_size=1, max_size=8))
        if not payload:
            break
    try:
        received = decode(bytes(payload))
    except FrameError as error:
        assert "\n" not in str(error)
    else:
        # What is taken for a frame is one: it can be sent on.
        assert decode(encode(received)) == received


_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.floats()
    | st.text(max_size=5)
    | st.binary(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=10,
)


@settings(max_examples=250, deadline=None)
@given(st.sampled_from(sorted(TAGS.values())), st.lists(_values, max_size=12))
def test_any_msgpack_behind_a_valid_tag_is_read_or_refused_with_a_frame_error(
    tag: int, fields: list[Any]
) -> None:
    try:
        decode(msgpack.packb([PROTOCOL_VERSION, [tag, *fields]]))
    except FrameError as error:
        assert "\n" not in str(error)


@settings(max_examples=150, deadline=None)
@given(messages, st.data())
def test_a_field_of_another_type_is_refused(message: WireMessage, data: st.DataObject) -> None:
    (raw,) = msgpack.unpackb(encode([message]), strict_map_key=False)[1:]
    where = data.draw(st.integers(1, len(raw) - 1))
    other = data.draw(st.sampled_from([-1, 1.5, [[1]], {"odd": 1}, "odd", b"odd"]))
    assume(type(other) is not type(raw[where]) or other == -1)
    assume(not (isinstance(message, Output) and other == {"odd": 1}))  # these are stats
    raw[where] = other
    with pytest.raises(FrameError):
        decode(msgpack.packb([PROTOCOL_VERSION, raw]))


def _with(message: WireMessage, where: int, value: object) -> bytes:
    (raw,) = msgpack.unpackb(encode([message]))[1:]
    raw[where] = value
    packed: bytes = msgpack.packb([PROTOCOL_VERSION, raw])
    return packed


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"", "not msgpack"),
        (encode([TRUTH])[:-1], "not msgpack"),
        (encode([TRUTH]) + b"\0", "not msgpack"),
        (msgpack.packb([]), "begins with the protocol version"),
        (msgpack.packb({}), "begins with the protocol version"),
        (
            msgpack.packb([PROTOCOL_VERSION + 1]),
            ONLY_OURS,
        ),
        (msgpack.packb([True]), ONLY_OURS),
        (msgpack.packb([PROTOCOL_VERSION, 1]), "begins with a known tag"),
        (msgpack.packb([PROTOCOL_VERSION, [99]]), "begins with a known tag"),
        (msgpack.packb([PROTOCOL_VERSION, [[1]]]), "begins with a known tag"),
        (msgpack.packb([PROTOCOL_VERSION, [2]]), "Truth: the fields are"),
        (_with(TRUTH, 4, -1), r"Truth: integers lie in \[0, 2\^64\), got -1"),
        (_with(TRUTH, 4, True), "Truth: the fields are"),
        (_with(TRUTH, 6, b"12345"), "tokens: 4 bytes each, got 5 bytes"),
        (_with(PROPOSALS, 9, 1), "Proposals: the fields are"),
        (_with(ATTACH, 6, 3), "Attach: 3 prompt tokens among 2 tokens"),
        (_with(ATTACH, 8, {"temperature": "hot"}), "SamplingParams.temperature"),
        (_with(ATTACH, 8, {"temperature": -1.0}), "SamplingParams.temperature"),
        (_with(ATTACH, 8, {"colour": 1}), "SamplingParams.colour"),
        (_with(Replan(EDGE, Plan(chain=("a",))), 4, {"chain": ()}), "Plan.chain"),
        (_with(ATTACH, 5, {"chain": ("a",), "edges": ({},)}), "a chain of 1 members has 0 edges"),
        (b"\x92\x01\xdd\xff\xff\xff\xff", "not msgpack"),
        (bytes((0x92, PROTOCOL_VERSION)) + b"\x91" * 600 + b"\x01", "a message is an array"),
    ],
)
def test_a_refusal_says_what_is_wrong(payload: bytes, reason: str) -> None:
    with pytest.raises(FrameError, match=reason):
        decode(payload)


def test_stats_nest_to_a_bounded_depth_under_string_keys() -> None:
    def output(stats: dict[Any, object]) -> bytes:
        return encode([Output(1, 0, array("I"), "stop", (), stats)])

    nested: Any = 1
    for _ in range(7):
        nested = (nested,)
    assert decode(output({"deep": nested}))
    for stats in ({"deeper": (nested,)}, {1: 1}, {"bytes": b"1"}):
        with pytest.raises(FrameError, match="stats"):
            decode(output(stats))


@pytest.mark.parametrize(
    "message",
    [TRUTH, PROPOSALS, ATTACH, Submit(1, TRUTH.tokens, SamplingParams(), None, array("I"))],
    ids=lambda message: type(message).__name__,
)
def test_a_token_that_the_vocabulary_lacks_is_refused(message: WireMessage) -> None:
    assert decode(encode([message]), vocab_size=7) == [message]
    with pytest.raises(FrameError, match=r"ids lie in \[0, 6\), got 6"):
        decode(encode([message]), vocab_size=6)


def test_tokens_already_emitted_are_checked_too() -> None:
    submit = Submit(1, array("I"), SamplingParams(), Plan(chain=("t",)), array("I", [6]))
    with pytest.raises(FrameError, match="ids lie in"):
        decode(encode([submit]), vocab_size=6)


def test_a_frame_has_a_bounded_number_of_messages() -> None:
    assert len(decode(encode([Detach(EDGE, close=True)] * (MAX_ARRAY_LEN - 1)))) == 8191
    too_many = [PROTOCOL_VERSION, *[(5, *EDGE, True)] * MAX_ARRAY_LEN]
    with pytest.raises(FrameError, match="not msgpack"):
        decode(msgpack.packb(too_many))


def test_encoding_does_not_depend_on_who_holds_the_tokens() -> None:
    copied = replace(TRUTH, tokens=array("I", TRUTH.tokens))
    assert encode([copied]) == encode([TRUTH])
