"""A log of prompts of any length, of which a bounded number is kept."""

import gzip
import hashlib
import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from specrouter_dist.cli.prompts import PromptRow, parse_row
from specrouter_dist.errors import NotFoundError, RequestError

if TYPE_CHECKING:
    from specrouter_dist.align.prompts import Prompt
    from specrouter_dist.text.tokenizer import Tokenizer

_MOST_CHARS = 16_384
"""Kept of a prompt, from its end: more than is looked at."""
_MOST_TOKENS = 1 << 62


@dataclass(frozen=True, slots=True)
class PromptLog:
    """What was kept of a log."""

    prompts: "tuple[Prompt, ...]"
    """Distinct; which and in which order, their contents and the seed determine."""
    num_rows: int


def read_prompt_log(path: Path, tokenizer: "Tokenizer", *, most: int, seed: int) -> PromptLog:
    """``most`` of the log's distinct prompts, drawn at random.

    Those with the least hashes are kept, and equal prompts have equal hashes: duplicates count
    once, and neither memory nor the result depends on how often or in which order rows come.

    Raises:
        InputError: no such file, or a row that is no prompt; names its line.
    """
    from tqdm import tqdm

    kept: list[tuple[int, PromptRow]] = []
    hashes: set[int] = set()
    num_rows = 0
    for row in _rows(path):
        num_rows += 1
        row_hash = _hash(row, seed)
        if row_hash in hashes or (len(kept) == most and row_hash > -kept[0][0]):
            continue
        hashes.add(row_hash)
        # A heap whose first has the greatest hash; no two are equal, so rows are not compared.
        if len(kept) < most:
            heapq.heappush(kept, (-row_hash, row))
        else:
            hashes.discard(-heapq.heapreplace(kept, (-row_hash, row))[0])
    if not kept:
        raise RequestError(f"{path}: holds no rows", field="prompts")
    rows = [row for _, row in sorted(kept, key=lambda entry: -entry[0])]
    prompts = [_prompt(row, tokenizer) for row in tqdm(rows, desc="encode", unit="prompt")]
    return PromptLog(tuple(prompts), num_rows)


def _rows(path: Path) -> Iterator[PromptRow]:
    """The rows of a JSONL file, gzipped if its name says so; long ones lose their beginning."""
    from tqdm import tqdm

    try:
        with (
            path.open("rb") as raw,
            tqdm(total=path.stat().st_size, desc="read", unit="B", unit_scale=True) as bar,
        ):
            lines = gzip.GzipFile(fileobj=raw) if path.suffix == ".gz" else raw
            for number, line in enumerate(lines, start=1):
                bar.update(raw.tell() - bar.n)
                if line.strip():
                    yield _shortened(parse_row(line, f"{path}, line {number}: "))
    except (OSError, EOFError) as problem:
        reason = getattr(problem, "strerror", None) or problem
        raise NotFoundError(f"prompts: cannot read {str(path)!r}: {reason}") from None


def _shortened(row: PromptRow) -> PromptRow:
    if isinstance(row.content, str):
        return PromptRow(row.content[-_MOST_CHARS:], {}, row.where)
    messages, room = [], _MOST_CHARS
    for message in reversed(row.content):
        if room <= 0:
            break
        messages.append({**message, "content": message["content"][-room:]})
        room -= len(message["content"])
    return PromptRow(tuple(reversed(messages)), {}, row.where)


def _hash(row: PromptRow, seed: int) -> int:
    content = f"{seed} {row.content!r}".encode(errors="surrogatepass")
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest())


def _prompt(row: PromptRow, tokenizer: "Tokenizer") -> "Prompt":
    from specrouter_dist.align.prompts import Prompt

    if isinstance(row.content, str):
        text = row.content
    else:
        text = "\n".join(message["content"] for message in row.content)
        if not tokenizer.has_chat_template:
            row = PromptRow(text, {}, row.where)
    return Prompt(text, row.encode(tokenizer, context_tokens=_MOST_TOKENS))
