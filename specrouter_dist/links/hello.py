"""The first frame of each side: who speaks, and the proof that it knows the cluster's secret.

The secret itself never travels. The dialler proves itself to the worker that it means to reach,
so a stranger who listens at an old address learns nothing of use elsewhere, and only then does
the listener answer, with a proof over the dialler's nonce. A hello that does not fit is answered
with nothing at all.
"""

import hmac
import struct
from dataclasses import dataclass, field

from specrouter_dist.errors import FrameError
from specrouter_dist.links.address import Peer
from specrouter_dist.links.control import PROTOCOL_VERSION

MAX_HELLO_BYTES = 1024
"""Longest frame that is read from a peer before it has proved itself."""
MIN_SECRET_BYTES = 16
NONCE_BYTES = 16
MAX_WORKER_NAME_BYTES = 512

_MAGIC = b"SRDL"
_HEAD = struct.Struct(f"<4sHB{NONCE_BYTES}sQ32s")
"""Magic, protocol version, role, nonce, incarnation, proof; the worker's name follows."""
_DIALLER, _LISTENER = 1, 2


@dataclass(frozen=True, slots=True)
class Credentials:
    """A hub's own name and the secret of its cluster."""

    own: Peer
    secret: bytes = field(repr=False)

    def dial(self, nonce: bytes, listener: Peer) -> bytes:
        """The dialler's hello."""
        proof = _proof(self.secret, _DIALLER, nonce, self.own, listener)
        return _encode(_DIALLER, nonce, self.own, proof)

    def admit(self, hello: bytes | memoryview) -> tuple[Peer, bytes]:
        """The dialler behind a hello, and the answer to it. ``FrameError``: it is none of ours."""
        dialler, nonce, proof = _decode(hello, _DIALLER)
        _verify(proof, _proof(self.secret, _DIALLER, nonce, dialler, self.own))
        answer = _proof(self.secret, _LISTENER, nonce, dialler, self.own)
        return dialler, _encode(_LISTENER, nonce, self.own, answer)

    def check_answer(self, hello: bytes | memoryview, nonce: bytes, listener: Peer) -> None:
        """Returns if the answer is the listener's. ``FrameError``: it is not."""
        answered, answered_nonce, proof = _decode(hello, _LISTENER)
        _verify(proof, _proof(self.secret, _LISTENER, nonce, self.own, listener))
        if (answered, answered_nonce) != (listener, nonce):
            raise FrameError("the hello names another worker than the one that was dialled")


def _proof(secret: bytes, role: int, nonce: bytes, dialler: Peer, listener: Peer) -> bytes:
    parts = [b"specrouter link", bytes((PROTOCOL_VERSION, role)), nonce]
    for peer in (dialler, listener):
        name = peer.worker.encode()
        parts += [len(name).to_bytes(4, "little"), name, peer.incarnation.to_bytes(8, "little")]
    return hmac.digest(secret, b"".join(parts), "sha256")


def _verify(proof: bytes, expected: bytes) -> None:
    if not hmac.compare_digest(proof, expected):
        raise FrameError("the hello's proof is wrong: another secret, or meant for another worker")


def _encode(role: int, nonce: bytes, own: Peer, proof: bytes) -> bytes:
    head = _HEAD.pack(_MAGIC, PROTOCOL_VERSION, role, nonce, own.incarnation, proof)
    return head + own.worker.encode()


def _decode(hello: bytes | memoryview, wanted_role: int) -> tuple[Peer, bytes, bytes]:
    if not _HEAD.size < len(hello) <= MAX_HELLO_BYTES:
        raise FrameError(f"a hello has {_HEAD.size} to {MAX_HELLO_BYTES} bytes, got {len(hello)}")
    magic, version, role, nonce, incarnation, proof = _HEAD.unpack_from(hello)
    if magic != _MAGIC:
        raise FrameError("the first frame is no hello")
    if version != PROTOCOL_VERSION:
        raise FrameError(f"protocol version {PROTOCOL_VERSION} is spoken here, got {version}")
    if role != wanted_role:
        raise FrameError("the hello has the wrong role")
    try:
        worker = bytes(hello[_HEAD.size :]).decode()
    except UnicodeDecodeError:
        raise FrameError("the hello's worker name is not UTF-8") from None
    return Peer(worker, incarnation), nonce, proof
