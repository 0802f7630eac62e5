"""Bodies of requests: JSON objects of strict types.

JSON numbers are no texts and no flags. ``null`` means that a field is absent.
"""

import asyncio
import json
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NoReturn, TypeVar

from pydantic import BaseModel, ConfigDict, model_validator

from specrouter_dist.errors import RequestError
from specrouter_dist.validation import shown, validated

_TOKEN_ID_LIMIT = 1 << 32
_INLINE_BYTES = 64 * 1024
"""What is longer takes milliseconds, in which nobody else would be served."""


class JsonObject(BaseModel):
    """An object of a body; unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, values: Any) -> Any:
        """Of unknown fields only the first is kept: it is refused, and there may be millions."""
        if not isinstance(values, Mapping):
            return values
        given = (name for name, value in values.items() if value is not None)
        unknown = next((name for name in given if name not in cls.model_fields), None)
        names = [*cls.model_fields, *([] if unknown is None else [unknown])]
        return {name: values[name] for name in names if values.get(name) is not None}


class Body(JsonObject):
    """A whole body."""

    @classmethod
    def prepared(cls, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """The fields to be looked at.

        Raises:
            RequestError: names a field that is refused whatever the others are.
        """
        return values

    def check(self) -> None:
        """What concerns several fields.

        Raises:
            RequestError: names the field that cannot stand with the others.
        """


BodyT = TypeVar("BodyT", bound=Body)
ResultT = TypeVar("ResultT")


async def read_body(model: type[BodyT], body: bytes) -> BodyT:
    """As :func:`parse_body`, on an event loop."""
    return await looked_at(len(body), partial(parse_body, model, body))


async def looked_at(num_bytes: int, look: Callable[[], ResultT]) -> ResultT:
    """What ``look`` makes of so many bytes: of many of them in a thread, beside the event loop."""
    return look() if num_bytes <= _INLINE_BYTES else await asyncio.to_thread(look)


def parse_body(model: type[BodyT], body: bytes) -> BodyT:
    """The request in a body.

    Raises:
        RequestError: no JSON, or a field that is wrong; names the field.
    """
    try:
        values = json.loads(body.decode())
    except UnicodeDecodeError as problem:
        raise RequestError(f"body: not UTF-8 at byte {problem.start + 1}") from None
    except json.JSONDecodeError as problem:
        raise RequestError(
            f"body: no valid JSON at line {problem.lineno}, column {problem.colno}: {problem.msg}"
        ) from None
    except (ValueError, RecursionError) as problem:
        # Numbers of thousands of digits, thousands of nested brackets.
        raise RequestError(f"body: no usable JSON: {problem}") from None
    try:
        return _checked(model, values, may_hold_surrogates=b"\\u" in body)
    except RecursionError:
        # The parser may bear more brackets than what looks at its result.
        raise RequestError("body: nested too deeply") from None


def _checked(model: type[BodyT], values: Any, *, may_hold_surrogates: bool) -> BodyT:
    if not isinstance(values, dict):
        raise RequestError(f"body: must be a JSON object, got {shown(values)}")
    if may_hold_surrogates and not _is_unicode(values):
        _refuse_surrogate(values, "")
    return parse_fields(model, values)


def parse_fields(model: type[BodyT], values: Mapping[str, Any]) -> BodyT:
    """The request of these fields, whatever they came in.

    Raises:
        RequestError: a field that is wrong; names it.
    """
    request = validated(model, model.prepared(values), error=RequestError)
    request.check()
    return request


def refuse(field: str, line: str) -> NoReturn:
    """
    Raises:
        RequestError: always; names the field.
    """
    raise RequestError(f"{field}: {line}", field=field)


def is_token_ids(value: Any) -> bool:
    """Whether a JSON value is a list of what could be token ids of some model."""
    return isinstance(value, list) and all(
        isinstance(token, int) and not isinstance(token, bool) and 0 <= token < _TOKEN_ID_LIMIT
        for token in value
    )


def _is_unicode(values: Any) -> bool:
    """JSON can spell halves of surrogate pairs, which are no text and cannot be sent on."""
    try:
        # In C: to go through millions of elements here takes seconds.
        json.dumps(values, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _refuse_surrogate(value: Any, path: str) -> None:
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError as problem:
            raise RequestError(
                f"{path}: no valid Unicode: a lone surrogate at character {problem.start}",
                field=path,
            ) from None
    elif isinstance(value, list):
        for i, element in enumerate(value):
            _refuse_surrogate(element, f"{path}[{i}]")
    elif isinstance(value, dict):
        for name, element in value.items():
            _refuse_surrogate(name, f"{path}.<name>" if path else "body")
            _refuse_surrogate(element, f"{path}.{name}" if path else name)
