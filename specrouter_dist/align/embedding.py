"""Prompts as points: those of one kind lie close together."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix
from sklearn.decomposition import TruncatedSVD
from tqdm import tqdm

from specrouter_dist.errors import ConfigError
from specrouter_dist.tasks.features import Features, FloatArray

NUM_DIMENSIONS = 64
_MOST_TOKENS = 256
"""Of a text for a sentence model, the last ones: they are trained on no longer ones, and what is
asked for stands at the end of a prompt."""
_TEXTS_PER_BATCH = 32


def sparse_matrix(rows: Sequence[Features], num_buckets: int) -> csr_matrix:
    """Features below each other, shape [num_prompts, num_buckets]."""
    bounds = np.cumsum([0, *(len(row.buckets) for row in rows)])
    weights = np.concatenate([row.weights for row in rows])
    buckets = np.concatenate([row.buckets for row in rows])
    return csr_matrix((weights, buckets, bounds), shape=(len(rows), num_buckets))


def latent_semantic(matrix: csr_matrix, seed: int) -> FloatArray:
    """Of n-gram features: their truncated SVD. Needs no download."""
    if not matrix.nnz:
        # No prompt has anything that another lacks.
        return np.zeros((matrix.shape[0], 1), np.float32)
    num_dimensions = min(NUM_DIMENSIONS, matrix.shape[0] - 1, matrix.shape[1] - 1)
    return _unit(TruncatedSVD(num_dimensions, random_state=seed).fit_transform(matrix))


def sentence_vectors(texts: Sequence[str], directory: Path) -> FloatArray:
    """By a sentence-transformers model: the mean of its last hidden states over the tokens.

    Raises:
        ConfigError: there is no such model in ``directory``, or a damaged one.
    """
    import torch

    tokenizer, model = _load_encoder(directory)
    vectors = []
    with torch.inference_mode():
        for batch in _batches(texts):
            tokens = tokenizer(
                batch, padding=True, truncation=True, max_length=_MOST_TOKENS, return_tensors="pt"
            )
            hidden = model(**tokens).last_hidden_state
            mask = tokens["attention_mask"][:, :, None].to(hidden.dtype)
            vectors.append(((hidden * mask).sum(1) / mask.sum(1)).numpy())
    return _unit(np.concatenate(vectors))


def _load_encoder(directory: Path) -> tuple[Any, Any]:
    from transformers import AutoModel, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(
            directory, local_files_only=True, truncation_side="left"
        )
        model = AutoModel.from_pretrained(directory, local_files_only=True)
    except Exception as problem:  # noqa: BLE001 - of damaged files the libraries raise bare ones
        raise ConfigError(
            f"--embedding: no model in {str(directory)!r} that can be read: {problem}",
            field="embedding",
        ) from None
    if tokenizer.pad_token is None:
        raise ConfigError(
            f"--embedding: the tokenizer in {str(directory)!r} has no pad token; name one in its "
            "tokenizer_config.json",
            field="embedding",
        )
    return tokenizer, model.eval()


def _batches(texts: Sequence[str]) -> Iterator[list[str]]:
    for start in tqdm(range(0, len(texts), _TEXTS_PER_BATCH), desc="embed", unit="batch"):
        yield list(texts[start : start + _TEXTS_PER_BATCH])


def _unit(vectors: FloatArray) -> FloatArray:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: FloatArray = (vectors / np.maximum(lengths, 1e-12)).astype(np.float32)
    return unit
