"""Training rows of the embedded pool: reading, chat form, encoding, packing."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer
from torch import Tensor

IntArray = npt.NDArray[np.int64]

END_OF_TEXT = "<|endoftext|>"
CHAT_FORM = "<|user|>{prompt}<|assistant|>"


@dataclass(frozen=True)
class Row:
    """One line of ``{train,dev}.jsonl.gz``."""

    task: str
    prompt: str
    completion: str


@dataclass(frozen=True)
class Example:
    """A row as token ids; ``tokens[:prompt_length]`` is the prompt."""

    task: str
    tokens: tuple[int, ...]
    prompt_length: int

    @property
    def completion(self) -> tuple[int, ...]:
        """The tokens behind the prompt."""
        return self.tokens[self.prompt_length :]


def read_rows(path: Path) -> list[Row]:
    """Read a gzipped JSON-lines file of task, prompt and completion."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [Row(**json.loads(line)) for line in lines]


def rows_per_task(rows: Sequence[Row], count: int) -> list[Row]:
    """The first ``count`` rows of every task."""
    tasks = sorted({row.task for row in rows})
    return [row for task in tasks for row in [r for r in rows if r.task == task][:count]]


def is_chat_row(row: Row, chat_fraction: float) -> bool:
    """Whether a row is shown in chat form: a hash of its prompt decides, the same in every run."""
    return zlib.crc32(row.prompt.encode()) % 1000 < 1000 * chat_fraction


def prompt_text(row: Row, chat_fraction: float) -> str:
    """The prompt as the model sees it: bare, or as one user turn of the chat template."""
    return CHAT_FORM.format(prompt=row.prompt) if is_chat_row(row, chat_fraction) else row.prompt


def encode_prompts(
    tokenizer: Tokenizer, rows: Sequence[Row], chat_fraction: float
) -> list[list[int]]:
    """Token ids of the prompts alone, in the order of ``rows``."""
    encodings = tokenizer.encode_batch([prompt_text(row, chat_fraction) for row in rows])
    return [list(encoding.ids) for encoding in encodings]


def encode_examples(
    tokenizer: Tokenizer, rows: Sequence[Row], chat_fraction: float, max_tokens: int
) -> list[Example]:
    """Encode prompt, completion and end-of-text; what is longer than ``max_tokens`` loses its end.

    Prompt and completion are encoded apart, as they are when a server continues a prompt. Rows
    whose prompt alone fills ``max_tokens`` are left out.
    """
    end = tokenizer.token_to_id(END_OF_TEXT)
    if end is None:
        raise ValueError(f"the tokenizer has no {END_OF_TEXT} token")
    prompts = encode_prompts(tokenizer, rows, chat_fraction)
    completions = tokenizer.encode_batch([row.completion for row in rows])
    examples = []
    for row, prompt, completion in zip(rows, prompts, completions, strict=True):
        if len(prompt) < max_tokens:
            tokens = (*prompt, *completion.ids, end)[:max_tokens]
            examples.append(Example(row.task, tokens, len(prompt)))
    return examples


def pack(examples: Iterable[Example], length: int) -> IntArray:
    """Concatenate examples and cut rows of ``length`` tokens; the remainder is dropped."""
    stream = np.fromiter(
        (token for example in examples for token in example.tokens), dtype=np.int64
    )
    rows = len(stream) // length
    return stream[: rows * length].reshape(rows, length)


def batches_by_length(
    lengths: Sequence[int], tokens_per_batch: int, order: np.random.Generator
) -> Iterator[list[int]]:
    """Yield every index once, in batches of at most ``tokens_per_batch`` tokens, padding included.

    Texts of similar length share a batch, so that little is padding; the order is random.
    """
    shuffled = order.permutation(len(lengths))
    by_length = shuffled[np.argsort([lengths[i] for i in shuffled], kind="stable")]
    groups: list[list[int]] = [[]]
    for index in by_length.tolist():
        if groups[-1] and (len(groups[-1]) + 1) * lengths[index] > tokens_per_batch:
            groups.append([])
        groups[-1].append(index)
    for position in order.permutation(len(groups)):
        if groups[position]:
            yield groups[position]


def pad(examples: Sequence[Example]) -> tuple[Tensor, Tensor]:
    """Right-pad examples; also mark the positions whose *next* token belongs to a completion.

    Those are the only ones a drafter is ever asked about. Causal attention never looks right, so
    padding needs no mask; every example starts at position 0, as it does when served.
    """
    longest = max(len(example.tokens) for example in examples)
    tokens = torch.zeros(len(examples), longest, dtype=torch.long)
    predicts = torch.zeros(len(examples), longest, dtype=torch.bool)
    for row, example in enumerate(examples):
        tokens[row, : len(example.tokens)] = torch.tensor(example.tokens)
        predicts[row, example.prompt_length - 1 : len(example.tokens) - 1] = True
    return tokens, predicts
