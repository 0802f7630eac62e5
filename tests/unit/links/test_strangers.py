"""Who does not know the secret, or does not speak our language, touches nothing."""

import hmac
import os
import socket
from array import array
from dataclasses import replace

import pytest

from specrouter_dist.errors import FrameError
from specrouter_dist.links.address import DialRefused, LinkDown, LinkUp, Peer, Received
from specrouter_dist.links.control import PROTOCOL_VERSION
from specrouter_dist.links.frames import EdgeId, Truth, encode
from specrouter_dist.links.hello import Credentials
from specrouter_dist.links.hub import Hub
from tests.unit.links.conftest import PATIENCE_S, SECRET, Hubs, wait_for

TRUTH = Truth(EdgeId(1, 2, 3), 1, 0, array("I", [5, 6]), 10)
NONCE = bytes(16)


def send_raw(hub: Hub, peer: Peer, payload: bytes) -> None:
    """A frame of any bytes, on a link that is up."""
    link = hub._peers.sending(peer)
    link._outbox.put_hello(payload)
    link._pipe.flush()


def dial_raw(hub: Hub, data: bytes) -> socket.socket:
    """A connection that begins with ``data``."""
    stranger = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    stranger.settimeout(PATIENCE_S)
    stranger.connect(hub.address.unix)
    stranger.sendall(data)
    return stranger


def framed(payload: bytes) -> bytes:
    return len(payload).to_bytes(4, "little") + payload


def hello_to(hub: Hub, secret: bytes = SECRET) -> bytes:
    return Credentials(Peer("stranger", 1), secret).dial(NONCE, hub.address.peer)


class TestHandshake:
    def test_another_secret_is_refused_on_both_sides(self, hubs: Hubs) -> None:
        a, b = hubs.make("a", secret=b"another secret altogether"), hubs.make("b")
        peer = a.connect(b.address)
        a.send(peer, [TRUTH])
        assert isinstance(wait_for(b, DialRefused).error, FrameError)
        down = wait_for(a, LinkDown)
        assert down.peer == peer
        assert "is the secret the same?" in str(down.error)
        assert b.receive(0.01) == []

    @pytest.mark.parametrize(
        ("damage", "reason"),
        [
            (lambda hello: b"", "a hello has"),
            (lambda hello: hello[:20], "a hello has"),
            (lambda hello: b"HTTP" + hello[4:], "no hello"),
            (
                lambda hello: hello[:4] + b"\x63\x00" + hello[6:],
                f"version {PROTOCOL_VERSION} is spoken here, got 99",
            ),
            (lambda hello: hello[:6] + b"\x02" + hello[7:], "wrong role"),
            (lambda hello: hello[:8] + b"\x01" + hello[9:], "proof is wrong"),
            (lambda hello: hello[:-1] + b"s", "proof is wrong"),
            (lambda hello: hello[:-1] + b"\xff", "not UTF-8"),
            (lambda hello: hello + b"x" * 1024, "at most 1024 bytes now"),
        ],
    )
    def test_a_damaged_hello_is_refused_without_an_answer(
        self, unix_hubs: Hubs, damage, reason: str
    ) -> None:
        a = unix_hubs.make("a")
        with dial_raw(a, framed(damage(hello_to(a)))) as stranger:
            assert reason in str(wait_for(a, DialRefused).error)
            assert stranger.recv(1) == b""

    def test_no_byte_is_answered_before_the_proof(self, unix_hubs: Hubs) -> None:
        a = unix_hubs.make("a")
        with dial_raw(a, framed(hello_to(a, secret=b"another secret altogether"))) as stranger:
            wait_for(a, DialRefused)
            assert stranger.recv(1) == b""

    def test_the_hello_of_another_dial_does_not_open_another_worker(self, unix_hubs: Hubs) -> None:
        a, b = unix_hubs.make("a"), unix_hubs.make("b")
        with dial_raw(b, framed(hello_to(a))):
            assert "proof is wrong" in str(wait_for(b, DialRefused).error)

    def test_the_secret_does_not_travel(self) -> None:
        assert SECRET not in Credentials(Peer("a", 1), SECRET).dial(NONCE, Peer("b", 1))
        assert "secret" not in repr(Credentials(Peer("a", 1), SECRET))

    def test_an_answer_to_another_nonce_is_refused(self) -> None:
        dialler, listener = Credentials(Peer("a", 1), SECRET), Credentials(Peer("b", 1), SECRET)
        _, answer = listener.admit(dialler.dial(NONCE, Peer("b", 1)))
        dialler.check_answer(answer, NONCE, Peer("b", 1))
        with pytest.raises(FrameError, match="proof is wrong"):
            dialler.check_answer(answer, b"1" * 16, Peer("b", 1))
        with pytest.raises(FrameError, match="proof is wrong"):
            dialler.check_answer(answer, NONCE, Peer("c", 1))

    def test_proofs_are_compared_in_constant_time(self, monkeypatch: pytest.MonkeyPatch) -> None:
        compared: list[bool] = []
        compare = hmac.compare_digest
        monkeypatch.setattr(
            hmac, "compare_digest", lambda x, y: compared.append(True) or compare(x, y)
        )
        listener = Credentials(Peer("b", 1), SECRET)
        listener.admit(Credentials(Peer("a", 1), SECRET).dial(NONCE, Peer("b", 1)))
        assert compared == [True]

    def test_silence_is_not_waited_for(self, unix_hubs: Hubs) -> None:
        a = unix_hubs.make("a", handshake_timeout_s=0.05)
        with dial_raw(a, b"") as stranger:
            assert "no hello within 0.05 s" in str(wait_for(a, DialRefused).error)
            assert stranger.recv(1) == b""

    def test_a_listener_that_does_not_answer_is_a_link_down(self, hubs: Hubs) -> None:
        a, b = hubs.make("a", handshake_timeout_s=0.2), hubs.make("b")
        peer = a.connect(b.address)
        down = wait_for(a, LinkDown)
        assert down.peer == peer
        assert "no hello within 0.2 s" in str(down.error)

    def test_frames_right_behind_the_answer_are_read(self, unix_hubs: Hubs) -> None:
        a, b = unix_hubs.make("a"), unix_hubs.make("b")
        a.connect(b.address)
        wait_for(b, LinkUp)
        # Larger than a hello may be, and in the socket together with the answer.
        large = replace(TRUTH, tokens=array("I", range(10_000)))
        b.send(a.address.peer, [large])
        assert a.receive(1) == [LinkUp(b.address.peer), Received(b.address.peer, [large])]


class TestFrames:
    @pytest.mark.parametrize(
        ("payload", "reason"),
        [
            (b"", "not msgpack"),
            (b"\xc1", "not msgpack"),
            (encode([TRUTH])[:-1], "not msgpack"),
            (
                encode([TRUTH]).replace(bytes((0x92, PROTOCOL_VERSION)), b"\x92\x01", 1),
                "protocol version",
            ),
            (encode([replace(TRUTH, tokens=array("I", [100]))]), "ids lie in"),
            (b"x" * 2001, "at most 2000 bytes"),
            (b"x" * 50_000, "at most 2000 bytes"),
        ],
        ids=["empty", "no msgpack", "cut", "version", "token", "too long", "far too long"],
    )
    def test_a_malformed_frame_ends_its_link_and_no_other(
        self, hubs: Hubs, payload: bytes, reason: str
    ) -> None:
        a = hubs.make("a", max_frame_bytes=2000, vocab_size=100)
        rogue, good = hubs.make("rogue"), hubs.make("good")
        rogue_to_a, a_to_rogue = hubs.link(rogue, a)
        good_to_a, a_to_good = hubs.link(good, a)
        send_raw(rogue, rogue_to_a, payload)
        down = wait_for(a, LinkDown)
        assert down.peer == a_to_rogue
        assert isinstance(down.error, FrameError)
        assert reason in str(down.error)
        wait_for(rogue, LinkDown)
        good.send(good_to_a, [TRUTH])
        assert wait_for(a, Received) == Received(a_to_good, [TRUTH])

    def test_what_came_before_a_malformed_frame_counts(self, hubs: Hubs) -> None:
        a, rogue = hubs.make("a"), hubs.make("rogue")
        to_a, _ = hubs.link(rogue, a)
        rogue.send(to_a, [TRUTH])
        assert wait_for(a, Received).messages == [TRUTH]
        send_raw(rogue, to_a, b"\xc1")
        assert isinstance(wait_for(a, LinkDown).error, FrameError)


class TestSocketFile:
    def test_only_this_user_reaches_it(self, unix_hubs: Hubs) -> None:
        directory = os.path.dirname(unix_hubs.make("a").address.unix)
        assert os.stat(directory).st_mode & 0o777 == 0o700

    def test_it_is_gone_after_closing(self, unix_hubs: Hubs) -> None:
        a = unix_hubs.make("a")
        a.close()
        assert not os.path.exists(os.path.dirname(a.address.unix))

    def test_its_path_is_short_enough_in_a_deep_directory(
        self, unix_hubs: Hubs, tmp_path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        deep = tmp_path / ("d" * 100)
        deep.mkdir()
        monkeypatch.setattr("tempfile.tempdir", str(deep))
        unix_hubs.link(unix_hubs.make("a"), unix_hubs.make("b"))
        assert list(deep.iterdir()) == []
