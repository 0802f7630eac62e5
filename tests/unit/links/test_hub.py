"""What a worker can rely on, whatever carries its frames."""

import threading
import time
from array import array
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specrouter_dist.errors import ConfigError, FrameError, LinkError
from specrouter_dist.links.address import (
    Address,
    Event,
    LinkDown,
    LinkUp,
    Peer,
    Posted,
    Received,
)
from specrouter_dist.links.frames import Detach, EdgeId, Refused, Truth, WireMessage
from specrouter_dist.links.hub import Hub
from tests.unit.links.conftest import PATIENCE_S, SECRET, Hubs, collect, wait_for
from tests.unit.links.strategies import messages

EDGE = EdgeId(1, 2, 3)
OTHER_EDGE = EdgeId(1, 3, 3)


def truth(edge: EdgeId, version: int, num_tokens: int = 1) -> Truth:
    return Truth(edge, version, 0, array("I", range(num_tokens)), 10)


def received(events: list[Event]) -> list[WireMessage]:
    return [m for event in events if isinstance(event, Received) for m in event.messages]


class TestMessages:
    def test_both_sides_send_whoever_dialled(self, all_hubs: Hubs) -> None:
        a, b = all_hubs.make("a"), all_hubs.make("b")
        to_b, to_a = all_hubs.link(a, b)
        a.send(to_b, [truth(EDGE, 1), Detach(EDGE, close=True)])
        assert wait_for(b, Received) == Received(to_a, [truth(EDGE, 1), Detach(EDGE, close=True)])
        b.send(to_a, [Refused(EDGE, "no room")])
        assert wait_for(a, Received) == Received(to_b, [Refused(EDGE, "no room")])

    def test_what_is_sent_before_the_handshake_waits_for_it(self, hubs: Hubs) -> None:
        a, b = hubs.make("a"), hubs.make("b")
        peer = a.connect(b.address)
        a.send(peer, [truth(EDGE, 1)])
        assert wait_for(b, LinkUp)
        assert wait_for(a, LinkUp)
        assert received([wait_for(b, Received)]) == [truth(EDGE, 1)]

    def test_frames_stay_in_order(self, all_hubs: Hubs) -> None:
        a, b = all_hubs.make("a"), all_hubs.make("b")
        to_b, _ = all_hubs.link(a, b)
        sent = [Refused(EdgeId(0, 0, i), "x" * (i * 37 % 5000)) for i in range(300)]
        for message in sent:
            a.send(to_b, [message])
        assert received(collect(b, lambda events: len(received(events)) == 300)) == sent

    def test_a_frame_of_the_largest_size_passes(self, all_hubs: Hubs) -> None:
        a, b = all_hubs.make("a"), all_hubs.make("b")
        to_b, to_a = all_hubs.link(a, b)
        large = truth(EDGE, 1, num_tokens=1_000_000)
        got: list[Event] = []
        reader = threading.Thread(target=lambda: got.append(wait_for(b, Received)))
        reader.start()
        a.send(to_b, [large])
        while reader.is_alive():
            a.receive(0.01)
        assert got == [Received(to_a, [large])]

    def test_an_empty_send_is_no_frame(self, all_hubs: Hubs) -> None:
        a, b = all_hubs.make("a"), all_hubs.make("b")
        to_b, _ = all_hubs.link(a, b)
        a.send(to_b, [])
        a.send(to_b, [truth(EDGE, 1)])
        assert received([wait_for(b, Received)]) == [truth(EDGE, 1)]

    @settings(max_examples=40, deadline=None)
    @given(sent=st.lists(messages, min_size=1, max_size=5))
    def test_any_message_passes(self, sent: list[WireMessage]) -> None:
        hubs = Hubs("unix")
        a, b = hubs.make("a"), hubs.make("b")
        to_b, to_a = hubs.link(a, b)
        a.send(to_b, sent)
        assert wait_for(b, Received) == Received(to_a, sent)
        hubs.close()

    def test_a_pair_passes_the_objects_themselves(self) -> None:
        hubs = Hubs("pair")
        a, b = hubs.make("a"), hubs.make("b")
        to_b, _ = hubs.link(a, b)
        message = truth(EDGE, 1)
        a.send(to_b, [message])
        assert wait_for(b, Received).messages[0] is message
        hubs.close()


class TestPeersThatDoNotRead:
    def test_unsent_truths_give_way_to_the_newest_of_their_edge(self, hubs: Hubs) -> None:
        a, b = hubs.make("a"), hubs.make("b", max_buffered_bytes=1 << 30)
        to_b, _ = hubs.link(a, b)
        for version in range(1, 201):
            a.send(to_b, [truth(EDGE, version, 50_000), truth(OTHER_EDGE, version, 50_000)])
            a.send(to_b, [Detach(EdgeId(0, 0, version), close=False)])
        last = Detach(EDGE, close=True)
        a.send(to_b, [last])
        got: list[WireMessage] = []
        until = time.monotonic() + PATIENCE_S
        while last not in got and time.monotonic() < until:
            got += received(b.receive(0.01))
            a.receive(0)
        for edge in (EDGE, OTHER_EDGE):
            versions = [m.version for m in got if isinstance(m, Truth) and m.edge == edge]
            assert versions[-1] == 200
            assert versions == sorted(versions)
            assert len(versions) < 200, "nothing was coalesced"
        detached = [m.edge.incarnation for m in got if isinstance(m, Detach)][:-1]
        assert detached == list(range(1, 201)), "only a Truth may be left out"

    def test_a_full_buffer_closes_the_link_with_an_error(self, hubs: Hubs) -> None:
        a, b = hubs.make("a", max_buffered_bytes=1 << 20), hubs.make("b")
        to_b, to_a = hubs.link(a, b)
        events: list[Event] = []
        for number in range(20_000):
            a.send(to_b, [Refused(EdgeId(0, 0, number), "x" * 60_000)])
            if events := a.receive(0):
                break
        assert [type(event) for event in events] == [LinkDown]
        assert isinstance(events[0], LinkDown)
        assert events[0].peer == to_b
        assert "the peer does not read" in str(events[0].error)
        downs = collect(b, lambda seen: any(isinstance(event, LinkDown) for event in seen))
        assert isinstance(downs[-1], LinkDown)
        assert downs[-1].peer == to_a

    def test_a_busy_engine_thread_holds_a_bounded_number_of_frames(self) -> None:
        hubs = Hubs("grpc")
        a, b = hubs.make("a"), hubs.make("b")
        to_b, _ = hubs.link(a, b)
        sent = [Refused(EdgeId(0, 0, number), "x" * 100_000) for number in range(80)]
        for message in sent:
            a.send(to_b, [message])
            assert a.receive(0.005) == []
            assert len(b._mailbox) <= 16
        assert received(collect(b, lambda events: len(received(events)) == 80)) == sent
        hubs.close()

    def test_a_stuck_end_of_a_pair_is_noticed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("specrouter_dist.links.pair.MAX_WAITING_FRAMES", 3)
        hubs = Hubs("pair")
        a, b = hubs.make("a"), hubs.make("b")
        to_b, _ = hubs.link(a, b)
        for _ in range(2):
            for _ in range(3):
                a.send(to_b, [truth(EDGE, 1)])
            assert len(received(b.receive(0))) == 3
        for _ in range(4):
            a.send(to_b, [truth(EDGE, 1)])
        assert "does not read" in str(wait_for(a, LinkDown).error)
        hubs.close()


class TestEnds:
    def test_a_closing_peer_is_reported_once(self, all_hubs: Hubs) -> None:
        a, b = all_hubs.make("a"), all_hubs.make("b")
        to_b, _ = all_hubs.link(a, b)
        b.close()
        down = wait_for(a, LinkDown)
        assert down.peer == to_b
        assert "closed the link" in str(down.error)
        assert a.receive(0.01) == []

    def test_sending_to_a_peer_that_is_gone_raises_once_that_is_known(self, hubs: Hubs) -> None:
        a, b = hubs.make("a"), hubs.make("b")
        to_b, _ = hubs.link(a, b)
        b.close()
        a.send(to_b, [truth(EDGE, 1)])
        a.send(to_b, [truth(EDGE, 2)])
        wait_for(a, LinkDown)
        with pytest.raises(LinkError, match="no link with"):
            a.send(to_b, [truth(EDGE, 3)])

    def test_a_peer_can_be_dialled_again(self, hubs: Hubs) -> None:
        a, b = hubs.make("a"), hubs.make("b")
        hubs.link(a, b)
        b.close()
        wait_for(a, LinkDown)
        again = hubs.make("b", incarnation=2)
        to_b, _ = hubs.link(a, again)
        assert to_b == Peer("b", 2)

    def test_a_dialler_that_dials_again_replaces_its_old_link(self, hubs: Hubs) -> None:
        first, b = hubs.make("a"), hubs.make("b")
        hubs.link(first, b)
        second = hubs.make("a")
        second.connect(b.address)
        events = collect(b, lambda events: any(isinstance(event, LinkUp) for event in events))
        assert [type(event) for event in events] == [LinkDown, LinkUp]
        wait_for(first, LinkDown)

    def test_closing_twice_is_closing(self, all_hubs: Hubs) -> None:
        a, b = all_hubs.make("a"), all_hubs.make("b")
        all_hubs.link(a, b)
        a.close()
        a.close()
        a.post("too late")


class TestDialling:
    def test_a_link_is_reused(self, hubs: Hubs) -> None:
        a, b = hubs.make("a"), hubs.make("b")
        to_b, _ = hubs.link(a, b)
        assert a.connect(b.address) == to_b
        assert b.connect(a.address) == a.address.peer
        a.send(to_b, [truth(EDGE, 1)])
        assert wait_for(b, Received)
        assert a.receive(0.01) == []

    def test_two_that_dial_each_other_are_linked_once(self, hubs: Hubs) -> None:
        a, b = hubs.make("a"), hubs.make("b")
        to_b, to_a = a.connect(b.address), b.connect(a.address)
        sent = [truth(EdgeId(0, 0, number), number) for number in range(20)]
        got: dict[Hub, list[Event]] = {a: [], b: []}
        for message in sent:
            a.send(to_b, [message])
            b.send(to_a, [message])
            got[a] += a.receive(0)
            got[b] += b.receive(0)
        until = time.monotonic() + PATIENCE_S
        while min(len(received(events)) for events in got.values()) < len(sent):
            got[a] += a.receive(0.01)
            got[b] += b.receive(0.01)
            assert time.monotonic() < until
        for events in got.values():
            assert received(events) == sent
            assert sum(isinstance(event, LinkUp) for event in events) == 1
        b.close()
        wait_for(a, LinkDown)
        assert a.receive(0.01) == []

    def test_a_stale_address_is_not_answered(self, hubs: Hubs) -> None:
        a, b = hubs.make("a"), hubs.make("b", incarnation=2)
        a.connect(replace(b.address, incarnation=1))
        while not (events := a.receive(0.01)):
            b.receive(0.01)
        assert [type(event) for event in events] == [LinkDown]

    def test_an_absent_socket_is_an_error_at_once(self, unix_hubs: Hubs) -> None:
        a, b = unix_hubs.make("a"), unix_hubs.make("b")
        b.close()
        with pytest.raises(LinkError, match="cannot connect"):
            a.connect(b.address)
        assert a.receive(0) == []

    def test_an_absent_grpc_listener_is_a_link_down(self) -> None:
        hubs = Hubs("grpc")
        a, b = hubs.make("a"), hubs.make("b")
        b.close()
        peer = a.connect(b.address)
        down = wait_for(a, LinkDown)
        assert down.peer == peer
        assert "UNAVAILABLE" in str(down.error)
        hubs.close()

    def test_another_node_without_an_address_cannot_be_reached(self, unix_hubs: Hubs) -> None:
        a, b = unix_hubs.make("a"), unix_hubs.make("b")
        with pytest.raises(LinkError, match="has no gRPC address"):
            a.connect(replace(b.address, node="elsewhere"))

    def test_a_worker_does_not_dial_itself(self, unix_hubs: Hubs) -> None:
        a = unix_hubs.make("a")
        with pytest.raises(LinkError, match="itself"):
            a.connect(a.address)

    def test_a_host_that_is_not_ours_is_an_error(self) -> None:
        with pytest.raises(LinkError, match="cannot listen at"):
            Hub("a", 1, "node", SECRET, grpc_host="192.0.2.1")

    def test_an_address_survives_as_plain_values(self, hubs: Hubs) -> None:
        address = hubs.make("a").address
        assert Address.from_dict(address.to_dict()) == address
        for wrong in ({}, {**address.to_dict(), "more": 1}, {**address.to_dict(), "unix": 1}):
            with pytest.raises(LinkError, match="no address"):
                Address.from_dict(wrong)

    @pytest.mark.parametrize(
        ("worker", "secret", "reason"),
        [
            ("a", b"short", "secret: at least 16 bytes, got 5"),
            ("", SECRET, "worker: 1 to 512 bytes"),
            ("a" * 513, SECRET, "worker: 1 to 512 bytes"),
        ],
    )
    def test_unusable_names_and_secrets_are_refused(
        self, worker: str, secret: bytes, reason: str
    ) -> None:
        with pytest.raises(ConfigError, match=reason):
            Hub(worker, 1, "node", secret)


class TestWaiting:
    def test_a_post_wakes_the_engine_thread(self, unix_hubs: Hubs) -> None:
        a = unix_hubs.make("a")
        for item in range(200):
            poster = threading.Thread(target=a.post, args=(item,))
            poster.start()
            assert a.receive(None) == [Posted(item)]
            poster.join()

    def test_no_post_is_lost_among_many_threads(self, unix_hubs: Hubs) -> None:
        a = unix_hubs.make("a")

        def post_all(first: int) -> None:
            for number in range(first, first + 500):
                a.post(number)

        posters = [threading.Thread(target=post_all, args=(n * 500,)) for n in range(4)]
        for poster in posters:
            poster.start()
        events = collect(a, lambda events: len(events) == 2000)
        numbers = [event.item for event in events if isinstance(event, Posted)]
        assert sorted(numbers) == list(range(2000))
        for first in range(0, 2000, 500):
            own = [n for n in numbers if first <= n < first + 500]
            assert own == sorted(own), "one thread's posts stay in order"
        for poster in posters:
            poster.join()

    def test_a_timeout_returns_nothing_and_costs_no_cpu(self, all_hubs: Hubs) -> None:
        a, b = all_hubs.make("a"), all_hubs.make("b")
        all_hubs.link(a, b)
        start_s, cpu_s = time.monotonic(), time.thread_time()
        assert a.receive(0.3) == []
        assert time.monotonic() - start_s >= 0.3
        assert time.thread_time() - cpu_s < 0.03

    def test_looking_does_not_wait(self, unix_hubs: Hubs) -> None:
        assert unix_hubs.make("a").receive(0) == []


def test_a_frame_error_is_raised_for_one_message_that_is_too_large(hubs: Hubs) -> None:
    a, b = hubs.make("a", max_frame_bytes=1000), hubs.make("b")
    to_b, _ = hubs.link(a, b)
    with pytest.raises(FrameError, match="a frame has at most 1000 bytes, got 10"):
        a.send(to_b, [truth(EDGE, 1), truth(EDGE, 2, 250)])
    # Several that are together too large go in several frames.
    a.send(to_b, [truth(EDGE, 3, 200), truth(OTHER_EDGE, 4, 200)])
    got = received(collect(b, lambda events: len(received(events)) == 2))
    assert got == [truth(EDGE, 3, 200), truth(OTHER_EDGE, 4, 200)]
