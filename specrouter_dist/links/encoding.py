"""Messages to bytes.

A frame's payload is one msgpack array: the protocol version, then the messages, each an array of
an integer tag and the message's fields in the order of its dataclass. An edge is its three
integers in place. Tokens are raw little-endian uint32. Sampling parameters and plans are maps,
validated by the receiver as if a user had written them. All integers lie in [0, 2^64).
"""

import sys
from collections.abc import Iterable, Sequence

import msgpack

from specrouter_dist.links.control import (
    MAX_ARRAY_LEN,
    PROTOCOL_VERSION,
    TAGS,
    Attach,
    Cancel,
    Detach,
    Failed,
    Output,
    Refused,
    Submit,
    WireMessage,
)
from specrouter_dist.speculation.messages import Proposals, Truth

if sys.byteorder != "little":
    raise ImportError("tokens travel as the memory of little-endian uint32")

_packb = msgpack.packb


def encode_message(message: WireMessage) -> bytes:
    """One message, as it stands in a frame. Wrong types raise ``TypeError``."""
    tag = TAGS[type(message)]
    match message:
        case Proposals(edge, seen, ack, start, prefix_hash, tokens, more):
            return _pack((tag, *edge, seen, ack, start, prefix_hash, tokens.tobytes(), more))
        case Truth(edge, version, base, tokens, limit):
            return _pack((tag, *edge, version, base, tokens.tobytes(), limit))
        case Attach():
            return _pack((tag, *_attach_fields(message)))
        case Refused(edge, reason):
            return _pack((tag, *edge, reason))
        case Detach(edge, close):
            return _pack((tag, *edge, close))
        case Submit(request, prompt, sampling, plan, output):
            maps = (sampling.model_dump(), plan.model_dump())
            return _pack((tag, request, prompt.tobytes(), *maps, output.tobytes()))
        case Cancel(request):
            return _pack((tag, request))
        case Output():
            return _pack((tag, *_output_fields(message)))
        case Failed(request, kind, text):
            return _pack((tag, request, kind, text))


def join_messages(packed: Sequence[bytes]) -> bytes:
    """A frame's payload from fewer than ``MAX_ARRAY_LEN`` encoded messages."""
    count = len(packed) + 1
    assert count <= MAX_ARRAY_LEN
    # msgpack's array header, then the version as a positive fixint.
    header = bytes((0x90 | count,)) if count < 16 else b"\xdc" + count.to_bytes(2, "big")
    return b"".join((header, bytes((PROTOCOL_VERSION,)), *packed))


def encode(messages: Iterable[WireMessage]) -> bytes:
    """A frame's payload."""
    return join_messages([encode_message(message) for message in messages])


def _pack(fields: tuple[object, ...]) -> bytes:
    packed: bytes = _packb(fields)
    return packed


def _attach_fields(m: Attach) -> tuple[object, ...]:
    plan = {
        "number": m.plan_number,
        "chain": m.chain,
        "edges": tuple(edge.model_dump() for edge in m.edges),
        "threads": m.threads,
    }
    stream = (m.prompt_tokens, m.tokens.tobytes())
    return (*m.edge, m.version, plan, *stream, m.sampling.model_dump(), m.end, m.limit)


def _output_fields(m: Output) -> tuple[object, ...]:
    logprobs = [(row.token, row.logprob, row.top) for row in m.logprobs]
    tokens = m.tokens.tobytes()
    return (m.request, m.start, tokens, m.text, m.finish_reason, logprobs, m.stats)
