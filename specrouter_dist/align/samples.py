"""What drafters learn from: the target's continuations of prompts, and text it has scored.

Both come as shards that hold the target's most probable next tokens, so that distilling for many
epochs runs the target once.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from tqdm import tqdm
from transformers import LlamaForCausalLM

from specrouter_dist.align.data import Example, Row, encode_examples, encode_prompts
from specrouter_dist.align.generation import BatchGenerator, TopK, similar_length_batches

TEMPERATURE_MIX: tuple[float, ...] = (0.0, 0.0, 0.8, 1.0)
"""Temperatures in equal shares: half of the samples are greedy, as half of the use is."""

TEXT_EVERY = 4  # every fourth shard is training text, which is six times cheaper to make
MAX_PROMPT = 256  # tokens; longer prompts are left out, they cost much prefill for few samples
_ROWS = 128  # rows of one generation batch
_TEXT_ROWS = 16  # rows of one scoring batch: its logits are (rows, positions, vocabulary)
PROMPTS_PER_SHARD = 2048


@dataclass(frozen=True)
class Lesson:
    """An example and the target's distribution at each position that predicts its completion."""

    example: Example
    top: TopK


def write_shard(path: Path, lessons: Sequence[Lesson]) -> None:
    """Write lessons as one file of flat arrays; the file appears whole or not at all."""
    examples = [lesson.example for lesson in lessons]
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        np.savez(
            file,
            tokens=np.fromiter((t for e in examples for t in e.tokens), dtype=np.uint16),
            lengths=np.array([len(e.tokens) for e in examples], dtype=np.int32),
            prompt_lengths=np.array([e.prompt_length for e in examples], dtype=np.int32),
            tasks=np.array([e.task for e in examples]),
            top_ids=np.concatenate([lesson.top.ids for lesson in lessons]),
            top_log_probs=np.concatenate([lesson.top.log_probs for lesson in lessons]),
        )
    os.replace(partial, path)


def read_shard(path: Path) -> list[Lesson]:
    """Read what ``write_shard`` wrote."""
    with np.load(path) as shard:
        lengths, prompt_lengths = shard["lengths"], shard["prompt_lengths"]
        pieces = np.split(shard["tokens"].astype(np.int64), np.cumsum(lengths)[:-1])
        ends = np.cumsum(lengths - prompt_lengths)
        top = TopK(shard["top_ids"], shard["top_log_probs"])
        tasks = shard["tasks"].tolist()
    starts = np.concatenate(([0], ends[:-1]))
    return [
        Lesson(Example(task, tuple(piece.tolist()), int(prompt)), top[int(start) : int(end)])
        for task, piece, prompt, start, end in zip(
            tasks, pieces, prompt_lengths, starts, ends, strict=True
        )
    ]


def read_lessons(folder: Path) -> list[Lesson]:
    """All lessons made so far, in shard order."""
    return [lesson for path in sorted(folder.glob("*.npz")) for lesson in read_shard(path)]


def make_shards(
    target: LlamaForCausalLM,
    tokenizer: Tokenizer,
    rows: Sequence[Row],
    folder: Path,
    *,
    count: int,
    max_new: int,
    chat_fraction: float,
    seed: int,
) -> int:
    """Make the missing ones of ``count`` shards; return the completion tokens made."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = BatchGenerator(target)
    made = 0
    for number in tqdm(range(count), desc="samples", unit="shard"):
        path = folder / f"{number:04d}.npz"
        if path.exists():
            continue
        order = np.random.default_rng((seed, number))
        chosen = [
            rows[i]
            for i in order.choice(len(rows), min(PROMPTS_PER_SHARD, len(rows)), replace=False)
        ]
        if number % TEXT_EVERY == TEXT_EVERY - 1:
            examples = encode_examples(tokenizer, chosen, chat_fraction, MAX_PROMPT)
            lessons = score_text(generator, examples)
        else:
            prompts = encode_prompts(tokenizer, chosen, chat_fraction)
            tasks = [row.task for row in chosen]
            lessons = continue_prompts(
                generator, tasks, prompts, TEMPERATURE_MIX, max_new, seed + number
            )
        write_shard(path, lessons)
        made += sum(len(lesson.top.ids) for lesson in lessons)
    return made


def continue_prompts(
    generator: BatchGenerator,
    tasks: Sequence[str],
    prompts: Sequence[Sequence[int]],
    temperatures: Sequence[float],
    max_new: int,
    seed: int,
) -> list[Lesson]:
    """Continue prompts, cycling through ``temperatures`` in the order of each batch's rows."""
    noise = torch.Generator().manual_seed(seed)
    kept = [i for i, prompt in enumerate(prompts) if 0 < len(prompt) <= MAX_PROMPT]
    lessons = []
    for batch in similar_length_batches([prompts[i] for i in kept], _ROWS):
        chosen = [kept[i] for i in batch]
        scale = torch.tensor([temperatures[i % len(temperatures)] for i in range(len(chosen))])
        continuations = generator.generate([prompts[i] for i in chosen], scale, max_new, noise)
        for index, new in zip(chosen, continuations, strict=True):
            example = Example(tasks[index], (*prompts[index], *new.tokens), len(prompts[index]))
            lessons.append(Lesson(example, new.top))
    return lessons


def score_text(generator: BatchGenerator, examples: Sequence[Example]) -> list[Lesson]:
    """What the target would say at each completion position of given text."""
    lessons = []
    for batch in similar_length_batches([example.tokens for example in examples], _TEXT_ROWS):
        chosen = [examples[i] for i in batch]
        for example, top in zip(chosen, generator.score([e.tokens for e in chosen]), strict=True):
            lessons.append(
                Lesson(example, top[example.prompt_length - 1 : len(example.tokens) - 1])
            )
    return lessons
