"""Messages to bytes.

A frame's payload is one msgpack array: the protocol version, then the messages, each an array of
an integer tag and the message's fields in the order of its dataclass. An edge is its three
integers in place. Tokens are raw little-endian uint32. Sampling parameters and plans are maps,
validated by the receiver as if a user had written them. All integers lie in [0, 2^64).
"""

import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgpack

from specrouter_dist.engine.interface import TokenLogprobs
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
    Replan,
    Report,
    Settled,
    Submit,
    WireMessage,
)
from specrouter_dist.speculation.messages import Proposals, Truth

if sys.byteorder != "little":
    raise ImportError("tokens travel as the memory of little-endian uint32")


def message_fields(message: WireMessage) -> tuple[object, ...]:
    """The array that msgpack makes of a message: its tag and its fields."""
    return _FIELDS[type(message)](message)


def join_messages(packed: Sequence[bytes]) -> bytes:
    """A frame's payload from fewer than ``MAX_ARRAY_LEN`` encoded messages."""
    count = len(packed) + 1
    assert count <= MAX_ARRAY_LEN
    # msgpack's array header, then the version as a positive fixint.
    header = bytes((0x90 | count,)) if count < 16 else b"\xdc" + count.to_bytes(2, "big")
    return b"".join((header, bytes((PROTOCOL_VERSION,)), *packed))


def encode(messages: Iterable[WireMessage]) -> bytes:
    """A frame's payload. Wrong types raise ``TypeError``."""
    return join_messages([msgpack.packb(message_fields(message)) for message in messages])


# Looked up once: the first two are on the token path.
_PROPOSALS = TAGS[Proposals]
_TRUTH = TAGS[Truth]
_ATTACH = TAGS[Attach]
_REPORT = TAGS[Report]
_SUBMIT = TAGS[Submit]
_OUTPUT = TAGS[Output]


def _proposals(m: Proposals) -> tuple[object, ...]:
    return (
        _PROPOSALS,
        *m.edge,
        m.version_seen,
        m.ack,
        m.start,
        m.prefix_hash,
        m.tokens.tobytes(),
        m.more,
    )


def _truth(m: Truth) -> tuple[object, ...]:
    return (_TRUTH, *m.edge, m.version, m.base, m.tokens.tobytes(), m.limit)


def _attach(m: Attach) -> tuple[object, ...]:
    plan = {
        "number": m.plan_number,
        "chain": m.chain,
        "edges": tuple(edge.model_dump() for edge in m.edges),
    }
    stream = (m.prompt_tokens, m.tokens.tobytes())
    bounds = (m.end, m.limit, m.block_tokens, m.outcomes)
    sampling = m.sampling.model_dump()
    return (_ATTACH, *m.edge, m.version, plan, *stream, sampling, *bounds, m.task, m.trace)


def _report(m: Report) -> tuple[object, ...]:
    levels = [
        (n.draft, n.verifier, n.proposed, n.accepted, n.rounds, n.truncations) for n in m.levels
    ]
    return (_REPORT, *m.edge, levels, m.device_us)


def _submit(m: Submit) -> tuple[object, ...]:
    plan = None if m.plan is None else m.plan.model_dump()
    lossy = None if m.lossy is None else m.lossy.model_dump()
    return (
        _SUBMIT,
        m.request,
        m.prompt.tobytes(),
        m.sampling.model_dump(),
        plan,
        m.output.tobytes(),
        m.task,
        m.name,
        m.trace,
        lossy,
    )


def _settled(m: Settled) -> tuple[object, ...]:
    tokens, sampling = m.tokens.tobytes(), m.sampling.model_dump()
    return (TAGS[Settled], m.request, m.prompt_tokens, tokens, sampling, m.task)


def _output(m: Output) -> tuple[object, ...]:
    tokens, logprobs = m.tokens.tobytes(), _logprobs(m.logprobs)
    of_prompt = _logprobs(m.prompt_logprobs)
    return (_OUTPUT, m.request, m.start, tokens, m.finish_reason, logprobs, m.stats, of_prompt)


def _logprobs(rows: Sequence[TokenLogprobs]) -> list[tuple[object, ...]]:
    return [(row.token, row.logprob, row.top) for row in rows]


_FIELDS: dict[type[WireMessage], Callable[[Any], tuple[object, ...]]] = {
    Proposals: _proposals,
    Truth: _truth,
    Attach: _attach,
    Refused: lambda m: (TAGS[Refused], *m.edge, m.reason),
    Detach: lambda m: (TAGS[Detach], *m.edge, m.close),
    Report: _report,
    Submit: _submit,
    Cancel: lambda m: (TAGS[Cancel], m.request),
    Output: _output,
    Settled: _settled,
    Replan: lambda m: (TAGS[Replan], *m.edge, m.plan.model_dump()),
    Failed: lambda m: (TAGS[Failed], m.request, m.kind, m.message),
}
