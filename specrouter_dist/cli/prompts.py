"""The prompts of a command: given on the line or read from a JSONL file, and made into ids."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from specrouter_dist.errors import InputError, NotFoundError, RequestError
from specrouter_dist.speculation.messages import TokenArray
from specrouter_dist.validation import shown

if TYPE_CHECKING:
    from specrouter_dist.text.tokenizer import Tokenizer

_PROMPT_KEYS = ("prompt", "turns", "messages")


@dataclass(frozen=True, slots=True)
class PromptRow:
    """One prompt: a text, or a conversation for the chat template."""

    content: str | tuple[Mapping[str, str], ...]
    carried: Mapping[str, Any]
    """The row's other keys, copied to the output."""
    where: str
    """For messages: the file and line, or nothing."""

    def encode(self, tokenizer: "Tokenizer", *, context_tokens: int) -> TokenArray:
        """Token ids.

        Raises:
            RequestError: no valid text, or too long for a context of ``context_tokens``.
        """
        try:
            if isinstance(self.content, str):
                ids = tokenizer.encode(self.content)
            else:
                ids = tokenizer.encode_chat(self.content)
            if len(ids) >= context_tokens:
                raise RequestError(
                    f"prompt: {len(ids)} tokens; at most {context_tokens - 1} fit the context of "
                    f"{context_tokens} with one token to generate",
                    field="prompt",
                )
            return ids
        except RequestError as problem:
            raise RequestError(f"{self.where}{problem}", field=problem.field) from None


def read_prompts(prompt: str | None, file: Path | None) -> list[PromptRow]:
    """The prompts of ``--prompt`` or ``--prompts``.

    Raises:
        InputError: neither or both are given, or the file is wrong; names its line.
    """
    if (prompt is None) == (file is None):
        given = "neither was" if prompt is None else "both were"
        raise RequestError(f"--prompt or --prompts: exactly one is needed, {given} given")
    if prompt is not None:
        return [PromptRow(prompt, {}, "")]
    assert file is not None
    try:
        lines = file.read_bytes().splitlines()
    except OSError as problem:
        raise NotFoundError(f"--prompts: cannot read {str(file)!r}: {problem.strerror}") from None
    rows = [
        parse_row(line, f"{file}, line {number}: ")
        for number, line in enumerate(lines, start=1)
        if line.strip()
    ]
    if not rows:
        raise RequestError(f"--prompts: {str(file)!r} holds no rows")
    return rows


def parse_row(line: bytes, where: str) -> PromptRow:
    """The prompt of one line of a JSONL file; ``where`` begins every message.

    Raises:
        RequestError: it holds no prompt, or more than one.
    """
    try:
        row = json.loads(line.decode())
    except UnicodeDecodeError as problem:
        raise RequestError(f"{where}not UTF-8 at byte {problem.start + 1}") from None
    except json.JSONDecodeError as problem:
        raise RequestError(
            f"{where}no valid JSON at column {problem.colno}: {problem.msg}"
        ) from None
    except (ValueError, RecursionError) as problem:
        # Numbers of thousands of digits, thousands of nested brackets.
        raise RequestError(f"{where}no usable JSON: {problem}") from None
    if not isinstance(row, dict):
        raise RequestError(f"{where}must be a JSON object, got {type(row).__name__}")
    keys = [key for key in _PROMPT_KEYS if key in row]
    if len(keys) != 1:
        raise RequestError(
            f"{where}exactly one of {', '.join(map(repr, _PROMPT_KEYS))} is needed, got "
            f"{' and '.join(map(repr, keys)) or 'none'}"
        )
    carried = {key: value for key, value in row.items() if key != keys[0]}
    try:
        return PromptRow(_content(keys[0], row[keys[0]]), carried, where)
    except InputError as problem:
        raise RequestError(f"{where}{problem}", field=problem.field) from None


def _content(key: str, value: Any) -> str | tuple[Mapping[str, str], ...]:
    if key == "messages":
        return _messages(_nonempty_list(key, value))
    text = _nonempty_list(key, value)[0] if key == "turns" else value
    if not isinstance(text, str) or not text.strip():
        name = "turns[0]" if key == "turns" else key
        raise RequestError(
            f"{name}: a text that is not empty is needed, got {shown(text)}", field=key
        )
    return text


def _nonempty_list(key: str, value: Any) -> list[Any]:
    if not isinstance(value, list) or not value:
        raise RequestError(
            f"{key}: a list that is not empty is needed, got {shown(value)}", field=key
        )
    return value


def _messages(values: list[Any]) -> tuple[Mapping[str, str], ...]:
    messages = tuple(_message(index, message) for index, message in enumerate(values))
    if not any(message["content"].strip() for message in messages):
        raise RequestError(
            "messages: a 'content' that is not empty is needed, in one of them at least",
            field="messages",
        )
    return messages


def _message(index: int, message: Any) -> Mapping[str, str]:
    for field in ("role", "content"):
        if not isinstance(message, dict) or not isinstance(message.get(field), str):
            raise RequestError(
                f"messages[{index}]: an object with the texts 'role' and 'content' is needed",
                field="messages",
            )
    return {"role": message["role"], "content": message["content"]}
