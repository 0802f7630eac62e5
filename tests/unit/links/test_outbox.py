"""What waits for the socket, and how a stream of bytes is cut into frames."""

from array import array
from itertools import chain

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specrouter_dist.errors import FrameError
from specrouter_dist.links.control import MAX_ARRAY_LEN
from specrouter_dist.links.frames import Cancel, EdgeId, Truth, WireMessage, decode
from specrouter_dist.links.outbox import Outbox, OutboxFullError
from specrouter_dist.links.unix import Splitter, frame_of

MAX_FRAME_BYTES = 300


def truth(edge: int, version: int, num_tokens: int) -> Truth:
    return Truth(EdgeId(edge, 0, 0), version, 0, array("I", range(num_tokens)), 0)


def taken(outbox: Outbox) -> list[list[WireMessage]]:
    frames = []
    while (payload := outbox.take()) is not None:
        assert len(payload) <= MAX_FRAME_BYTES or outbox._max_frame_bytes > MAX_FRAME_BYTES
        frames.append(decode(payload))
    return frames


batches = st.lists(
    st.lists(
        st.builds(Cancel, st.integers(0, 1 << 40))
        | st.builds(truth, st.integers(0, 2), st.integers(0, 99), st.integers(0, 60)),
        min_size=1,
        max_size=6,
    ),
    max_size=10,
)


@settings(max_examples=150, deadline=None)
@given(batches, st.data())
def test_frames_hold_everything_but_replaced_truths_in_order(
    sent: list[list[WireMessage]], data: st.DataObject
) -> None:
    outbox = Outbox(MAX_FRAME_BYTES, 1 << 20)
    outbox.release()
    waiting: list[WireMessage] = []
    expected: list[WireMessage] = []
    got: list[WireMessage] = []
    for batch in sent:
        outbox.put(batch)
        for message in batch:
            edges = [m.edge if isinstance(m, Truth) else None for m in waiting]
            if isinstance(message, Truth) and message.edge in edges:
                waiting[edges.index(message.edge)] = message
            else:
                waiting.append(message)
        if data.draw(st.booleans()):
            got += chain.from_iterable(taken(outbox))
            expected += waiting
            waiting = []
    assert [*got, *chain.from_iterable(taken(outbox))] == expected + waiting


def test_one_put_is_one_frame() -> None:
    outbox = Outbox(MAX_FRAME_BYTES, 1 << 20)
    outbox.release()
    outbox.put([Cancel(1), truth(1, 1, 3)])
    assert taken(outbox) == [[Cancel(1), truth(1, 1, 3)]]


def test_only_the_hello_leaves_before_the_release() -> None:
    outbox = Outbox(MAX_FRAME_BYTES, 1 << 20)
    outbox.put([Cancel(1)])
    outbox.put_hello(b"hello")
    assert (outbox.take(), outbox.take()) == (b"hello", None)
    outbox.release()
    assert taken(outbox) == [[Cancel(1)]]


def test_a_frame_has_at_most_so_many_messages() -> None:
    outbox = Outbox(1 << 22, 1 << 22)
    outbox.release()
    cancels: list[WireMessage] = [Cancel(n) for n in range(MAX_ARRAY_LEN + 5)]
    outbox.put(cancels)
    frames = taken(outbox)
    assert [len(frame) for frame in frames] == [MAX_ARRAY_LEN - 1, 6]
    assert list(chain.from_iterable(frames)) == cancels


def test_the_bound_counts_what_is_waiting_now() -> None:
    outbox = Outbox(1 << 20, 1000)
    outbox.release()
    for version in range(1000):
        outbox.put([truth(1, version, 200)])  # replaced each time
    for _ in range(1000):
        outbox.put([Cancel(1)])
        assert outbox.take() is not None
    with pytest.raises(OutboxFullError, match="bytes unsent, at most 1000 are kept"):
        outbox.put([truth(1, 1, 200), truth(2, 1, 200)])


def test_nothing_is_queued_when_one_message_is_too_large() -> None:
    outbox = Outbox(MAX_FRAME_BYTES, 1 << 20)
    outbox.release()
    with pytest.raises(FrameError, match="a frame has at most 300 bytes"):
        outbox.put([Cancel(1), truth(1, 1, 80)])
    assert outbox.take() is None


class Sink:
    """What a splitter needs of a link."""

    def __init__(self) -> None:
        self.payloads: list[bytes] = []

    def check_length(self, num_bytes: int) -> None:
        if num_bytes > MAX_FRAME_BYTES:
            raise FrameError("too long")

    def on_frame(self, payload: bytes | memoryview) -> None:
        self.payloads.append(bytes(payload))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.binary(max_size=MAX_FRAME_BYTES), max_size=8), st.data())
def test_frames_are_found_however_the_stream_is_cut(
    payloads: list[bytes], data: st.DataObject
) -> None:
    stream = b"".join(map(frame_of, payloads))
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=12).map(sorted))
    sink, splitter = Sink(), Splitter()
    for start, stop in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        splitter.feed(stream[start:stop], sink)
        complete = b"".join(map(frame_of, sink.payloads))
        assert stream.startswith(complete)
        assert splitter.in_frame == (len(complete) < stop)
    assert sink.payloads == payloads


def test_a_frame_is_refused_by_its_announcement() -> None:
    sink, splitter = Sink(), Splitter()
    with pytest.raises(FrameError, match="too long"):
        splitter.feed(frame_of(b"ok") + (301).to_bytes(4, "little"), sink)
    assert sink.payloads == [b"ok"]
