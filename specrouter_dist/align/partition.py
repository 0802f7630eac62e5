"""The tasks of a log of prompts: embedded, clustered, named, and learned to be told online."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydantic import Field
from tqdm import tqdm

from specrouter_dist.align.clusters import Choice, choose_number, cluster
from specrouter_dist.align.embedding import latent_semantic, sentence_vectors, sparse_matrix
from specrouter_dist.align.naming import names_of, telling_terms
from specrouter_dist.align.prompts import Prompt
from specrouter_dist.align.task_classifier import Learned, learn
from specrouter_dist.config import UserModel
from specrouter_dist.errors import RequestError
from specrouter_dist.tasks.features import Features, FloatArray, IdArray, Ngrams
from specrouter_dist.tasks.model import Header, Task, TaskModel

LEAST_PROMPTS = 50
"""Distinct ones; fewer say nothing about which partition repeats."""
_HELD_OUT_SHARE = 0.2
_NUM_BUCKETS = 1 << 15


class PartitionConfig(UserModel):
    """What a user may set."""

    max_tasks: int = Field(default=8, ge=1, le=32)
    max_prompts: int = Field(default=20_000, ge=LEAST_PROMPTS)
    """Of a longer log so many distinct prompts are drawn at random: memory is bounded."""
    embedding: Path | None = None
    """Directory of a sentence-transformers model; None: latent semantics of the n-grams."""
    seed: int = Field(default=0, ge=0, lt=1 << 32)


@dataclass(frozen=True, slots=True)
class Partition:
    """What was found."""

    model: TaskModel
    choice: Choice
    learned: Learned
    num_held_out: int


def fit_tasks(
    prompts: Sequence[Prompt],
    config: PartitionConfig,
    *,
    separators: Sequence[int],
    vocabulary_hash: str,
) -> Partition:
    """Finds the tasks of distinct prompts. The same prompts and seed give the same partition.

    Args:
        separators: ids of the tokenizer's special tokens.
        vocabulary_hash: of the tokenizer.

    Raises:
        RequestError: too few prompts.
    """
    if len(prompts) < LEAST_PROMPTS:
        raise RequestError(
            f"prompts: {len(prompts)} distinct ones; at least {LEAST_PROMPTS} are needed to find "
            "tasks in",
            field="prompts",
        )
    idf, rows = _features(prompts, separators)
    matrix = sparse_matrix(rows, _NUM_BUCKETS)
    if config.embedding is None:
        vectors = latent_semantic(matrix, config.seed)
    else:
        vectors = sentence_vectors([prompt.text for prompt in prompts], config.embedding)
    choice = choose_number(vectors, config.max_tasks, config.seed)
    labels = cluster(vectors, choice.num_tasks, config.seed)
    is_held_out = _held_out(labels, config.seed)
    learned = learn(matrix, labels, is_held_out)
    header = Header(
        vocabulary_hash=vocabulary_hash,
        tasks=_tasks(prompts, labels, choice.num_tasks),
        separators=tuple(separators),
        temperature=learned.temperature,
        least_probability=learned.least_probability,
        num_prompts=len(prompts),
    )
    model = TaskModel(header, weights=learned.weights, bias=learned.bias, idf=idf)
    return Partition(model, choice, learned, int(is_held_out.sum()))


def _features(
    prompts: Sequence[Prompt], separators: Sequence[int]
) -> tuple[FloatArray, list[Features]]:
    """How much each bucket says (inverse document frequency), and the prompts by it."""
    plain = Ngrams(_NUM_BUCKETS, separators)
    counts = np.zeros(_NUM_BUCKETS, np.int64)
    for prompt in tqdm(prompts, desc="count", unit="prompt"):
        counts[plain.of(prompt.tokens).buckets] += 1
    idf = np.log((1 + len(prompts)) / (1 + counts)).astype(np.float16).astype(np.float32)
    weighted = Ngrams(_NUM_BUCKETS, separators, idf)
    rows = [weighted.of(prompt.tokens) for prompt in tqdm(prompts, desc="weigh", unit="prompt")]
    return idf, rows


def _held_out(labels: IdArray, seed: int) -> npt.NDArray[np.bool_]:
    """A share of the prompts, but the last of no task: of each there is something to learn."""
    is_held_out = np.zeros(len(labels), bool)
    num_wanted = max(1, int(len(labels) * _HELD_OUT_SHARE))
    num_left = np.bincount(labels)
    for at in np.random.default_rng(seed).permutation(len(labels)).tolist():
        if num_left[labels[at]] > 1:
            num_left[labels[at]] -= 1
            is_held_out[at] = True
        if is_held_out.sum() == num_wanted:
            break
    return is_held_out


def _tasks(prompts: Sequence[Prompt], labels: IdArray, num_tasks: int) -> tuple[Task, ...]:
    terms = telling_terms([prompt.text for prompt in prompts], labels, num_tasks)
    shares = np.bincount(labels, minlength=num_tasks) / len(prompts)
    return tuple(
        Task(name=name, terms=words, share=float(share))
        for name, words, share in zip(names_of(terms), terms, shares, strict=True)
    )
