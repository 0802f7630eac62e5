"""Rows of a batch: what one line asks for.

Two shapes are taken. OpenAI's batch rows have ``custom_id``, ``method``, ``url`` and ``body``.
Plain rows have ``prompt`` or ``messages`` beside any fields of the HTTP endpoints; what else they
have is carried to the output.
"""

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, NoReturn

from specrouter_dist.batch.lines import MAX_LINE_BYTES, Line
from specrouter_dist.errors import RequestError
from specrouter_dist.serving.json_body import JsonObject, refuse
from specrouter_dist.serving.openai_schema import ChatRequest, CompletionRequest
from specrouter_dist.serving.unsupported import without_unsupported
from specrouter_dist.speculation.noise import derive_seed
from specrouter_dist.validation import shown, validated

COMPLETIONS = "/v1/completions"
CHAT = "/v1/chat/completions"

_OPENAI_KEYS = frozenset({"custom_id", "method", "url", "body"})
_PROMPT_KEYS = frozenset({"prompt", "messages"})
_FIELDS = {*CompletionRequest.model_fields, *ChatRequest.model_fields}
"""Keys of plain rows that are no further keys."""
_LIKENESS = 0.85
"""A further key as like a field as this is taken for a slip of the pen."""


@dataclass(frozen=True, slots=True)
class Row:
    """One request, or what is known of one that cannot be read."""

    custom_id: str | None = None
    url: str = COMPLETIONS
    body: Mapping[str, Any] | None = None
    """Of the request, with its seed; None if there is a problem."""
    carried: Mapping[str, Any] | None = None
    """Further keys of a plain row; None: the row is of OpenAI's shape, or unreadable."""
    problem: RequestError | None = None
    """Why it cannot be run."""


class _OpenAIRow(JsonObject):
    custom_id: str
    method: Literal["POST"]
    url: Literal["/v1/completions", "/v1/chat/completions"]
    body: dict[str, Any]


def parse_row(line: Line, *, seed: int, defaults: Mapping[str, Any]) -> Row:
    """The row of a line; one that is wrong has a ``problem``.

    Args:
        line: of the input.
        seed: of the run; a row without a seed gets one derived from it and the row's index.
        defaults: fields of bodies for rows that do not have them.
    """
    row = Row()
    try:
        values = _read(line)
        # Rows with a prompt of their own may carry a "url" or a "custom_id".
        is_plain = bool(_PROMPT_KEYS & values.keys()) or not _OPENAI_KEYS & values.keys()
        row = _begin_plain(values) if is_plain else _begin_openai(values)
        row = _with_body_of_plain(row, values) if is_plain else _with_body_of_openai(row, values)
        assert row.body is not None
        return replace(row, body=_completed(row.body, derive_seed(seed, 0, line.index), defaults))
    except RequestError as problem:
        return replace(row, body=None, problem=problem)


def _read(line: Line) -> dict[str, Any]:
    if not line.is_whole:
        raise RequestError(f"longer than {MAX_LINE_BYTES} bytes")
    try:
        values = json.loads(line.content.decode(), parse_constant=_refuse_constant)
        # JSON can spell halves of surrogate pairs, which are no text and cannot be written.
        json.dumps(values, ensure_ascii=False).encode()
    except UnicodeDecodeError as problem:
        raise RequestError(f"not UTF-8 at byte {problem.start + 1}") from None
    except UnicodeEncodeError:
        raise RequestError("no valid Unicode: it spells a lone surrogate") from None
    except json.JSONDecodeError as problem:
        raise RequestError(f"no valid JSON at column {problem.colno}: {problem.msg}") from None
    except (ValueError, RecursionError) as problem:
        # Numbers of thousands of digits, thousands of nested brackets.
        raise RequestError(f"no usable JSON: {problem}") from None
    if not isinstance(values, dict):
        raise RequestError(f"must be a JSON object, got {shown(values)}")
    return values


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _begin_openai(values: Mapping[str, Any]) -> Row:
    custom_id = values.get("custom_id")
    return Row(custom_id=custom_id if isinstance(custom_id, str) else None)


def _with_body_of_openai(row: Row, values: Mapping[str, Any]) -> Row:
    checked = validated(_OpenAIRow, values, error=RequestError)
    return replace(row, url=checked.url, body=checked.body)


def _begin_plain(values: Mapping[str, Any]) -> Row:
    return Row(carried=_further(values))


def _further(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key not in _FIELDS}


def _with_body_of_plain(row: Row, values: Mapping[str, Any]) -> Row:
    given = [key for key in sorted(_PROMPT_KEYS) if values.get(key) is not None]
    if len(given) != 1:
        got = "both" if given else "neither"
        raise RequestError(
            "exactly one of 'prompt' and 'messages' is needed, or OpenAI's 'custom_id', 'method', "
            f"'url' and 'body'; got {got}"
        )
    carried = _further(without_unsupported(values))
    for key in carried:
        _check_no_slip(key)
    body = {key: value for key, value in values.items() if key in _FIELDS}
    url = CHAT if given == ["messages"] else COMPLETIONS
    return replace(row, url=url, body=body, carried=carried)


def _check_no_slip(key: str) -> None:
    """A misspelt field must not be carried along as if nothing had been wanted."""
    like = difflib.get_close_matches(key, sorted(_FIELDS), n=1, cutoff=_LIKENESS)
    if like:
        refuse(key, f"unknown field (did you mean {like[0]!r}?); to carry it, name it otherwise")


def _completed(
    body: Mapping[str, Any], seed: int, defaults: Mapping[str, Any]
) -> Mapping[str, Any]:
    given = {key: value for key, value in body.items() if value is not None}
    if given.get("stream") is True:
        refuse("stream", "a batch gives whole answers")
    missing = {"seed": seed, **defaults}
    if "max_completion_tokens" in given:
        # The newer name of the same field.
        missing.pop("max_tokens", None)
    return {**missing, **given}
