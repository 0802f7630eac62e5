"""What a worker of a benchmark and its driver say to each other: JSON objects, one a line.

A worker runs in the virtual environment of what it measures: nothing but the standard library is
imported here. It reads requests from its standard input until that ends.
"""

import json
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import TextIO, TypeVar


class LineError(Exception):
    """A line that is not what was agreed upon."""


@dataclass(frozen=True, slots=True)
class Ready:
    """A worker's first line."""

    versions: dict[str, str]
    """Of the packages that its speed depends on."""

    @classmethod
    def parse(cls, line: str) -> "Ready":
        """Raises LineError."""
        ready = _parse(cls, line)
        if not isinstance(ready.versions, dict):
            raise LineError(f"versions are no object: {line!r}")
        return ready


@dataclass(frozen=True, slots=True)
class Request:
    """One prompt to continue."""

    prompt_ids: list[int]
    max_tokens: int
    temperature: float
    """0 is greedy. No top-k, no top-p."""
    seed: int
    ignore_eos: bool = False
    chain: list[str] | None = None
    """Our own members, drafter first; None: the router's choice, or not ours."""

    @classmethod
    def parse(cls, line: str) -> "Request":
        """Raises LineError."""
        return _parse(cls, line)


@dataclass(frozen=True, slots=True)
class Answer:
    """One output."""

    token_ids: list[int]
    """New ids, with the EOS that ended them, if one did."""
    time_to_first_token_ms: float
    total_ms: float
    """From the request to the last token, prefill included."""
    num_draft_tokens: int | None = None
    """None: it does not speculate."""
    num_accepted_draft_tokens: int | None = None

    @classmethod
    def parse(cls, line: str) -> "Answer":
        """Raises LineError, also for times and ids that cannot be."""
        answer = _parse(cls, line)
        ids = answer.token_ids
        if not isinstance(ids, list) or not ids or not all(type(i) is int for i in ids):
            raise LineError(f"no list of token ids: {ids!r:.80}")
        first_ms, total_ms = answer.time_to_first_token_ms, answer.total_ms
        if not all(isinstance(ms, int | float) for ms in (first_ms, total_ms)):
            raise LineError(f"times that are no numbers: {first_ms!r}, {total_ms!r}")
        if not 0 < first_ms <= total_ms:
            raise LineError(f"times that cannot be: {first_ms} ms of {total_ms} ms")
        return answer


_Line = TypeVar("_Line", Ready, Request, Answer)


def _parse(kind: type[_Line], line: str) -> _Line:
    try:
        return kind(**json.loads(line))
    except (ValueError, TypeError) as error:
        names = [field.name for field in fields(kind)]
        raise LineError(f"{line[:80]!r} is no {kind.__name__} ({', '.join(names)})") from error


def to_line(content: Ready | Request | Answer) -> str:
    """With its end."""
    return json.dumps(asdict(content)) + "\n"


def claim_stdout() -> TextIO:
    """Standard output for answers alone: what libraries print goes to standard error from now."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return answers


def serve(
    answers: TextIO, versions: Mapping[str, str], generate: Callable[[Request], Answer]
) -> None:
    """Says that the worker is ready, then answers requests until there are no more."""
    print(to_line(Ready(dict(versions))), end="", file=answers, flush=True)
    for line in sys.stdin:
        print(to_line(generate(Request.parse(line))), end="", file=answers, flush=True)
