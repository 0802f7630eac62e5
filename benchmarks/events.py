"""Server-sent events of OpenAI's streams."""

import json
from typing import Any

_DATA = "data: "
_END = f"{_DATA}[DONE]"


def parse_event(line: str) -> dict[str, Any] | None:
    """The object in a line of a stream; None: there is none, as between events and at the end.

    Raises:
        RuntimeError: the server says that the stream has failed.
    """
    if not line.startswith(_DATA) or line == _END:
        return None
    event: dict[str, Any] = json.loads(line.removeprefix(_DATA))
    if "error" in event:
        raise RuntimeError(str(event["error"]))
    return event
