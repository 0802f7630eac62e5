"""Rows of the output. Each begins with its key, so that half a row says whose it is."""

import json
from collections.abc import Mapping
from typing import Any

from specrouter_dist.batch.keys import Key
from specrouter_dist.batch.rows import Row

_OPENAI_START = '{"id": "batch_req_'
_PLAIN_START = '{"request_id": "req_'
STARTS = (_OPENAI_START, _PLAIN_START)
"""What the key follows, in the two shapes."""


def answered(row: Row, key: Key, answer: Mapping[str, Any]) -> bytes:
    """The line of a row that was run: a plain row's result or an endpoint's answer."""
    if row.carried is not None:
        return _line(_plain(row, key, {**answer, "error": None}))
    prefix = str(answer["id"]).partition("-")[0]
    body = {**answer, "id": f"{prefix}-{key}"}
    return _line(_openai(row, key, _response(key, 200, body), None))


def failed(
    row: Row, key: Key, *, line_number: int, status_code: int, error: Mapping[str, Any]
) -> bytes:
    """The line of a row that cannot be run.

    Args:
        row: of the input.
        key: its key.
        line_number: where it stands.
        status_code: what HTTP would have answered.
        error: ``message``, ``type``, ``param`` and ``code`` as in an answer over HTTP.
    """
    told = {**error, "line": line_number}
    if row.carried is not None:
        return _line(_plain(row, key, {"error": told}))
    # A line that is no request has no answer.
    was_asked = row.problem is None
    response = _response(key, status_code, {"error": dict(error)}) if was_asked else None
    return _line(_openai(row, key, response, told))


def _plain(row: Row, key: Key, result: Mapping[str, Any]) -> dict[str, Any]:
    first = {"request_id": f"req_{key}"}
    # Once more at the end: a further key of the same name does not replace it.
    return {**first, **(row.carried or {}), **result, **first}


def _openai(
    row: Row, key: Key, response: Mapping[str, Any] | None, error: Mapping[str, Any] | None
) -> dict[str, Any]:
    return {
        "id": f"batch_req_{key}",
        "custom_id": row.custom_id,
        "response": response,
        "error": error,
    }


def _response(key: Key, status_code: int, body: Mapping[str, Any]) -> dict[str, Any]:
    return {"status_code": status_code, "request_id": f"req_{key}", "body": dict(body)}


def _line(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, ensure_ascii=False, allow_nan=False).encode() + b"\n"
