"""The clusters behind a partition, found again in the log that it was made of: its file holds the
classifier alone, which was taught them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.sparse import csr_matrix
from sklearn.decomposition import TruncatedSVD
from sklearn.preprocessing import normalize

from specrouter_dist.align.clusters import cluster
from specrouter_dist.align.embedding import NUM_DIMENSIONS, sentence_vectors, sparse_matrix
from specrouter_dist.align.prompts import Prompt
from specrouter_dist.tasks.features import FloatArray, IdArray, Ngrams
from specrouter_dist.tasks.model import TaskModel

_SAME_SHARES = 0.01
"""A cluster has lost or gained less of the log: rounding differs between machines."""

Embed = Callable[[Sequence[Prompt]], FloatArray]


@dataclass(frozen=True, slots=True)
class Clusters:
    """Those of a partition.

    Attributes:
        names: of the tasks that they are.
        centres: shape [num_tasks, num_dimensions].
    """

    names: Sequence[str]
    centres: FloatArray
    embed: Embed

    def of(self, prompts: Sequence[Prompt]) -> list[str]:
        """The task whose centre is nearest to each prompt, however far it is."""
        return [self.names[label] for label in nearest(self.embed(prompts), self.centres)]


def find_clusters(
    model: TaskModel, log: Sequence[Prompt], *, seed: int, embedding: Path | None
) -> Clusters:
    """As ``tasks fit`` found them.

    Args:
        log: the prompts that the partition was made of.
        seed, embedding: with which it was.

    Raises:
        SystemExit: these are not the clusters of ``model``.
    """
    if embedding is None:
        embed = latent_semantics(model, log, seed)
    else:

        def embed(prompts: Sequence[Prompt]) -> FloatArray:
            return sentence_vectors([prompt.text for prompt in prompts], embedding)

    tasks = model.header.tasks
    vectors = embed(log)
    labels = cluster(vectors, len(tasks), seed)
    shares = np.bincount(labels, minlength=len(tasks)) / len(log)
    if np.abs(shares - [task.share for task in tasks]).max() >= _SAME_SHARES:
        raise SystemExit(
            "--log: its clusters are not the partition's: it was made of another log, or with "
            "another --seed or --embedding"
        )
    centres = np.stack([vectors[labels == label].mean(axis=0) for label in range(len(tasks))])
    return Clusters([task.name for task in tasks], centres, embed)


def latent_semantics(model: TaskModel, log: Sequence[Prompt], seed: int) -> Embed:
    """``align.embedding.latent_semantic`` of the log, and of any other prompts in its space."""
    ngrams = Ngrams(len(model.idf), model.header.separators, model.idf)

    def features(prompts: Sequence[Prompt]) -> csr_matrix:
        return sparse_matrix([ngrams.of(prompt.tokens) for prompt in prompts], len(model.idf))

    matrix = features(log)
    num_dimensions = min(NUM_DIMENSIONS, matrix.shape[0] - 1, matrix.shape[1] - 1)
    svd = TruncatedSVD(num_dimensions, random_state=seed).fit(matrix)

    def embed(prompts: Sequence[Prompt]) -> FloatArray:
        vectors: FloatArray = normalize(svd.transform(features(prompts))).astype(np.float32)
        return vectors

    return embed


def nearest(vectors: FloatArray, centres: FloatArray) -> IdArray:
    """The centre next to each vector."""
    # |v - c|^2 without |v|^2, which is the same for all centres.
    distances = (centres**2).sum(axis=1) - 2 * vectors @ centres.T
    found: IdArray = distances.argmin(axis=1)
    return found
