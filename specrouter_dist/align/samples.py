"""What drafters learn from: the target's continuations of prompts, and text it has scored.

Both come as shards that hold the target's most probable next tokens, so that distilling for many
epochs runs the target once.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer
from tqdm import tqdm

from specrouter_dist.align.config import AlignmentConfig
from specrouter_dist.align.data import Example, Row, encode_examples, encode_prompts
from specrouter_dist.align.generation import TopK, laws_along, write
from specrouter_dist.config import SamplingParams
from specrouter_dist.engine.interface import Engine
from specrouter_dist.speculation.messages import TOKEN_TYPECODE
from specrouter_dist.speculation.noise import derive_seed

TEMPERATURE_MIX: tuple[float, ...] = (0.0, 0.0, 0.8, 1.0)
"""Temperatures in equal shares: half of the samples are greedy, as half of the use is."""

TEXT_EVERY = 4  # every fourth shard is training text, which is six times cheaper to make
MAX_PROMPT = 256  # tokens; longer prompts are left out, they cost much prefill for few samples
PROMPTS_PER_SHARD = 2048


@dataclass(frozen=True)
class Teacher:
    """A target, as it is served.

    Attributes:
        eos_ids: what ends its texts.
    """

    engine: Engine
    eos_ids: frozenset[int]


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
            tokens=np.fromiter((t for e in examples for t in e.tokens), lessons[0].top.ids.dtype),
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


def make_samples(
    teacher: Teacher,
    task: str,
    prompts: Sequence[Sequence[int]],
    folder: Path,
    config: AlignmentConfig,
) -> None:
    """Makes the shards that are missing of what the target writes after the task's prompts."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in tqdm(range(config.shards), desc=f"{task}: samples", unit="shard"):
        path = folder / f"{number:04d}.npz"
        if path.exists():
            continue
        size = min(config.prompts_per_shard, len(prompts))
        order = np.random.default_rng((config.seed, number))
        chosen = [prompts[i] for i in order.choice(len(prompts), size, replace=False)]
        draws = samplings_of(
            size, TEMPERATURE_MIX, teacher.eos_ids, config.max_new_tokens, config.seed + number
        )
        write_shard(path, continue_prompts(teacher.engine, [task] * size, chosen, draws))


def make_shards(
    teacher: Teacher,
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
            laws = laws_along(teacher.engine, examples)
            lessons = [Lesson(text, top) for text, top in zip(examples, laws, strict=True)]
        else:
            tasks, prompts = short_prompts(tokenizer, chosen, chat_fraction)
            draws = samplings_of(
                len(prompts), TEMPERATURE_MIX, teacher.eos_ids, max_new, seed + number
            )
            lessons = continue_prompts(teacher.engine, tasks, prompts, draws)
        write_shard(path, lessons)
        made += sum(len(lesson.top.ids) for lesson in lessons)
    return made


def short_prompts(
    tokenizer: Tokenizer, rows: Sequence[Row], chat_fraction: float
) -> tuple[list[str], list[Sequence[int]]]:
    """The tasks and tokens of the prompts that are not too long."""
    encoded = zip(rows, encode_prompts(tokenizer, rows, chat_fraction), strict=True)
    kept = [(row.task, tokens) for row, tokens in encoded if 0 < len(tokens) <= MAX_PROMPT]
    return [task for task, _ in kept], [tokens for _, tokens in kept]


def samplings_of(
    count: int, temperatures: Sequence[float], ends: frozenset[int], max_new: int, seed: int = 0
) -> list[SamplingParams]:
    """How each of ``count`` texts is drawn: at the temperatures in turn, by a seed of its own."""
    stop = tuple(sorted(ends))
    return [
        SamplingParams(
            temperature=temperatures[i % len(temperatures)],
            seed=derive_seed(seed, 0, i),
            max_tokens=max_new,
            stop_token_ids=stop,
        )
        for i in range(count)
    ]


def continue_prompts(
    target: Engine,
    tasks: Sequence[str],
    prompts: Sequence[Sequence[int]],
    draws: Sequence[SamplingParams],
) -> list[Lesson]:
    """What the target writes after the prompts, and its laws there."""
    written = write(target, [array(TOKEN_TYPECODE, tokens) for tokens in prompts], draws)
    return [
        Lesson(Example(task, (*prompt, *new.tokens), len(prompt)), new.top)
        for task, prompt, new in zip(tasks, prompts, written, strict=True)
    ]


def own_texts(
    model: Engine,
    tasks: Sequence[str],
    prompts: Sequence[Sequence[int]],
    draws: Sequence[SamplingParams],
) -> list[Example]:
    """What a model writes after the prompts: along it, and with the same draws, it picks that."""
    return [lesson.example for lesson in continue_prompts(model, tasks, prompts, draws)]
