"""Bytes to messages. Whatever the bytes are, the only error that leaves is ``FrameError``.

The layout is that of encoding.py. What a stage checks anyway (which edge, which position) is
not checked here; what would break it (types, signs, lengths, unknown ids) is.
"""

from array import array
from collections.abc import Callable
from typing import Any, TypeGuard, TypeVar, get_args

import msgpack
from pydantic import ValidationError

from specrouter_dist.config import LossyParams, Plan, SamplingParams, UserModel
from specrouter_dist.engine.interface import TokenLogprobs
from specrouter_dist.errors import FrameError
from specrouter_dist.links.control import (
    MAX_ARRAY_LEN,
    PROTOCOL_VERSION,
    TAGS,
    Attach,
    Cancel,
    Detach,
    Failed,
    FinishReason,
    LevelCounts,
    Output,
    Refused,
    Replan,
    Report,
    Settled,
    Submit,
    WireMessage,
)
from specrouter_dist.speculation.messages import (
    TOKEN_TYPECODE,
    EdgeId,
    Proposals,
    TokenArray,
    Truth,
)

_Raw = tuple[Any, ...]
_Model = TypeVar("_Model", bound=UserModel)

_MAX_STATS_DEPTH = 8
"""Deepest nesting of an Output's stats."""
_EDGE = (int, int, int)
_FINISH_REASONS = (None, *get_args(FinishReason))


def decode(payload: bytes | memoryview, *, vocab_size: int | None = None) -> list[WireMessage]:
    """The messages of one frame's payload.

    Args:
        payload: what ``encode`` made.
        vocab_size: when given, every token id must be below it.

    Raises:
        FrameError: the payload is not exactly a frame of this protocol version.
    """
    try:
        raw = msgpack.unpackb(
            payload,
            use_list=False,
            strict_map_key=False,
            max_array_len=MAX_ARRAY_LEN,
            max_ext_len=0,
        )
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        # Their messages can quote the payload: only the class is told.
        raise FrameError(f"not msgpack: {type(error).__name__}") from None
    if type(raw) is not tuple or not raw:
        raise FrameError("a frame is an array that begins with the protocol version")
    if raw[0] != PROTOCOL_VERSION or type(raw[0]) is not int:
        raise FrameError(f"only frames of protocol version {PROTOCOL_VERSION} are read")
    return [_decode_message(message, vocab_size) for message in raw[1:]]


def _decode_message(raw: object, vocab_size: int | None) -> WireMessage:
    if type(raw) is not tuple or not raw or type(raw[0]) is not int or raw[0] not in _DECODERS:
        raise FrameError("a message is an array that begins with a known tag")
    return _DECODERS[raw[0]](raw, vocab_size)


def _check_types(kind: type, raw: _Raw, wanted: tuple[type, ...]) -> None:
    # type() tells bool from int.
    if tuple(map(type, raw)) != wanted:
        expected = ", ".join(t.__name__ for t in wanted[1:])
        got = ", ".join(type(value).__name__ for value in raw[1:])
        raise FrameError(f"{kind.__name__}: the fields are ({expected}), got ({got})")


def _check_unsigned(kind: type, smallest: int) -> None:
    if smallest < 0:
        raise FrameError(f"{kind.__name__}: integers lie in [0, 2^64), got {smallest}")


def _tokens(raw: bytes, vocab_size: int | None) -> TokenArray:
    if len(raw) % 4:
        raise FrameError(f"tokens: 4 bytes each, got {len(raw)} bytes")
    tokens = array(TOKEN_TYPECODE, raw)
    if vocab_size is not None and tokens and max(tokens) >= vocab_size:
        raise FrameError(f"tokens: ids lie in [0, {vocab_size}), got {max(tokens)}")
    return tokens


def _model(kind: type[_Model], raw: object) -> _Model:
    try:
        return kind.model_validate(raw, strict=True)
    except ValidationError as error:
        # Never the value: it is the peer's, of any size and depth.
        first = error.errors(include_input=False, include_url=False, include_context=False)[0]
        path = ".".join(map(str, first["loc"]))
        raise FrameError(f"{kind.__name__}.{path}: {first['msg']}") from None


_PROPOSALS = (int, *_EDGE, int, int, int, int, bytes, bool)


def _proposals(raw: _Raw, vocab_size: int | None) -> Proposals:
    _check_types(Proposals, raw, _PROPOSALS)
    _check_unsigned(Proposals, min(raw[:8]))
    _, session, attach, incarnation, seen, ack, start, prefix_hash, tokens, more = raw
    edge = EdgeId(session, attach, incarnation)
    return Proposals(edge, seen, ack, start, prefix_hash, _tokens(tokens, vocab_size), more)


_TRUTH = (int, *_EDGE, int, int, bytes, int)


def _truth(raw: _Raw, vocab_size: int | None) -> Truth:
    _check_types(Truth, raw, _TRUTH)
    _, session, attach, incarnation, version, base, tokens, limit = raw
    _check_unsigned(Truth, min(session, attach, incarnation, version, base, limit))
    edge = EdgeId(session, attach, incarnation)
    return Truth(edge, version, base, _tokens(tokens, vocab_size), limit)


def _attach(raw: _Raw, vocab_size: int | None) -> Attach:
    _check_types(Attach, raw, (int, *_EDGE, int, dict, int, bytes, dict, *(int,) * 4, str, str))
    _, *edge, version, rest, prompt_tokens, raw_tokens, sampling, end, limit, block = raw[:-3]
    outcomes, task, trace = raw[-3:]
    _check_unsigned(Attach, min(*edge, version, prompt_tokens, end, limit, block, outcomes))
    tokens = _tokens(raw_tokens, vocab_size)
    if prompt_tokens > len(tokens):
        raise FrameError(f"Attach: {prompt_tokens} prompt tokens among {len(tokens)} tokens")
    plan = _model(Plan, rest)
    return Attach(
        edge=EdgeId(*edge),
        version=version,
        plan_number=plan.number,
        chain=plan.chain,
        edges=plan.edges,
        prompt_tokens=prompt_tokens,
        tokens=tokens,
        sampling=_model(SamplingParams, sampling),
        end=end,
        limit=limit,
        block_tokens=block,
        outcomes=outcomes,
        task=task,
        trace=trace,
    )


def _refused(raw: _Raw, _: int | None) -> Refused:
    _check_types(Refused, raw, (int, *_EDGE, str))
    _check_unsigned(Refused, min(raw[:4]))
    return Refused(EdgeId(*raw[1:4]), raw[4])


def _detach(raw: _Raw, _: int | None) -> Detach:
    _check_types(Detach, raw, (int, *_EDGE, bool))
    _check_unsigned(Detach, min(raw[:4]))
    return Detach(EdgeId(*raw[1:4]), raw[4])


def _replan(raw: _Raw, _: int | None) -> Replan:
    _check_types(Replan, raw, (int, *_EDGE, dict))
    _check_unsigned(Replan, min(raw[:4]))
    return Replan(EdgeId(*raw[1:4]), _model(Plan, raw[4]))


def _report(raw: _Raw, _: int | None) -> Report:
    _check_types(Report, raw, (int, *_EDGE, tuple, int))
    _check_unsigned(Report, min(*raw[:4], raw[5]))
    level_types = (str, str, int, int, int, int)
    if not all(_has_types(level, level_types) and min(level[2:]) >= 0 for level in raw[4]):
        raise FrameError("Report: a level is two names and four counts")
    levels = tuple(LevelCounts(*level) for level in raw[4])
    return Report(EdgeId(*raw[1:4]), levels, raw[5])


def _submit(raw: _Raw, vocab_size: int | None) -> Submit:
    plan_type, lossy_type = (
        dict if len(raw) != 10 or raw[i] is not None else type(None) for i in (4, 9)
    )
    texts = (str, str, str)
    _check_types(Submit, raw, (int, int, bytes, dict, plan_type, bytes, *texts, lossy_type))
    _check_unsigned(Submit, raw[1])
    _, request, prompt, sampling, plan, output, task, name, trace, lossy = raw
    return Submit(
        request=request,
        prompt=_tokens(prompt, vocab_size),
        sampling=_model(SamplingParams, sampling),
        plan=None if plan is None else _model(Plan, plan),
        output=_tokens(output, vocab_size),
        task=task,
        name=name,
        trace=trace,
        lossy=None if lossy is None else _model(LossyParams, lossy),
    )


def _settled(raw: _Raw, vocab_size: int | None) -> Settled:
    _check_types(Settled, raw, (int, int, int, bytes, dict, str))
    _, request, prompt_tokens, raw_tokens, sampling, task = raw
    _check_unsigned(Settled, min(request, prompt_tokens))
    tokens = _tokens(raw_tokens, vocab_size)
    if not 1 <= prompt_tokens < len(tokens):
        raise FrameError(f"Settled: {prompt_tokens} prompt tokens among {len(tokens)} tokens")
    return Settled(request, prompt_tokens, tokens, _model(SamplingParams, sampling), task)


def _cancel(raw: _Raw, _: int | None) -> Cancel:
    _check_types(Cancel, raw, (int, int))
    _check_unsigned(Cancel, raw[1])
    return Cancel(raw[1])


def _output(raw: _Raw, vocab_size: int | None) -> Output:
    finish_reason, stats = (raw[4], raw[6]) if len(raw) == 8 else (None, None)
    optional = (type(finish_reason), tuple, type(stats))
    _check_types(Output, raw, (int, int, int, bytes, *optional, tuple))
    _check_unsigned(Output, min(raw[1:3]))
    _, request, start, tokens, _, logprobs, _, of_prompt = raw
    if type(finish_reason) not in (str, type(None)) or finish_reason not in _FINISH_REASONS:
        raise FrameError(f"Output: finish_reason is one of {_FINISH_REASONS}")
    if type(stats) not in (dict, type(None)) or not _is_plain(stats, _MAX_STATS_DEPTH):
        raise FrameError("Output: stats is a map of plain values under string keys")
    return Output(
        request=request,
        start=start,
        tokens=_tokens(tokens, vocab_size),
        finish_reason=finish_reason,
        logprobs=tuple(_logprobs(row) for row in logprobs),
        stats=stats,
        prompt_logprobs=tuple(_logprobs(row) for row in of_prompt),
    )


def _logprobs(raw: object) -> TokenLogprobs:
    if not _has_types(raw, (int, float, tuple)) or raw[0] < 0:
        raise FrameError("Output: a row of logprobs is an id, a float and the likeliest")
    if not all(_has_types(pair, (int, float)) and pair[0] >= 0 for pair in raw[2]):
        raise FrameError("Output: the likeliest are pairs of an id and a float")
    return TokenLogprobs(*raw)


def _has_types(raw: object, wanted: tuple[type, ...]) -> TypeGuard[_Raw]:
    return type(raw) is tuple and tuple(map(type, raw)) == wanted


def _is_plain(value: object, depth: int) -> bool:
    if type(value) is dict:
        plain_keys = all(type(key) is str for key in value)
        return depth > 0 and plain_keys and all(_is_plain(v, depth - 1) for v in value.values())
    if type(value) is tuple:
        return depth > 0 and all(_is_plain(v, depth - 1) for v in value)
    return type(value) in (type(None), bool, int, float, str)


def _failed(raw: _Raw, _: int | None) -> Failed:
    _check_types(Failed, raw, (int, int, str, str))
    _check_unsigned(Failed, raw[1])
    return Failed(*raw[1:])


_DECODERS: dict[int, Callable[[_Raw, int | None], WireMessage]] = {
    TAGS[Proposals]: _proposals,
    TAGS[Truth]: _truth,
    TAGS[Attach]: _attach,
    TAGS[Refused]: _refused,
    TAGS[Detach]: _detach,
    TAGS[Submit]: _submit,
    TAGS[Cancel]: _cancel,
    TAGS[Output]: _output,
    TAGS[Failed]: _failed,
    TAGS[Report]: _report,
    TAGS[Settled]: _settled,
    TAGS[Replan]: _replan,
}
