"""From a prompt's token ids to what it is about, fast enough for admission."""

from collections.abc import Sequence

import numpy as np

from specrouter_dist.tasks.features import Features, FloatArray, Ngrams
from specrouter_dist.tasks.model import TaskModel

NO_TASK = ""
"""None of the known ones."""


class TaskClassifier:
    """A linear model over hashed n-grams. Numpy only; safe to use from several threads."""

    def __init__(self, model: TaskModel) -> None:
        header = model.header
        self.names = tuple(task.name for task in header.tasks)
        self._ngrams = Ngrams(len(model.idf), header.separators, model.idf)
        self._weights = np.ascontiguousarray(model.weights / np.float32(header.temperature))
        self._bias = model.bias / np.float32(header.temperature)
        self._least_probability = header.least_probability

    def posterior(self, tokens: Sequence[int]) -> FloatArray:
        """How likely each of ``names`` is, given that it is one of them; shape [num_tasks]."""
        return self._posterior(self._ngrams.of(tokens))

    def task(self, tokens: Sequence[int]) -> str:
        """The likeliest task, or ``NO_TASK``: the prompt is unlike those that were learned from.

        A conversation is judged by its last turns, so it moves when its subject changes.
        """
        features = self._ngrams.of(tokens)
        if not len(features.buckets):
            return NO_TASK
        posterior = self._posterior(features)
        best = int(posterior.argmax())
        return self.names[best] if posterior[best] >= self._least_probability else NO_TASK

    def _posterior(self, features: Features) -> FloatArray:
        scores = features.weights @ self._weights[features.buckets] + self._bias
        powers = np.exp(scores - scores.max())
        shares: FloatArray = powers / powers.sum()
        return shares
