"""What a request is about, where its client does not say: a prior for the router.

It only names the kind of request, and with it where its agreement is expected to start; what the
request itself shows takes over from there. Without a usable partition requests are as all of their
regime, which is what they are without tasks.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Self

from specrouter_dist.errors import ConfigError
from specrouter_dist.pools.checks import read_vocabulary
from specrouter_dist.pools.loading import Pool, tasks_file
from specrouter_dist.serving.results import GenerateRequest
from specrouter_dist.tasks.classifier import NO_TASK, TaskClassifier
from specrouter_dist.tasks.model import read_model, vocabulary_hash

logger = logging.getLogger(__name__)


class Tasks:
    """A pool's classifier, or why there is none."""

    def __init__(
        self, classifier: TaskClassifier | None = None, problem: str | None = None
    ) -> None:
        self._classifier = classifier
        self.problem = problem
        """None: all is well, or the pool names no partition."""

    @classmethod
    def of(cls, pool: Pool) -> Self:
        """Of a pool whose directories are resolved. A partition that cannot be used is no reason
        not to serve: it is logged, and told in health and metrics."""
        try:
            return cls(open_classifier(pool))
        except ConfigError as problem:
            logger.warning("%s; requests are not told apart by task", problem)
            return cls(problem=str(problem))

    def name(self, request: GenerateRequest) -> GenerateRequest:
        """The request with its task, if it names none and is about one that is known."""
        if self._classifier is None or request.task:
            return request
        return replace(request, task=self.of_prompt(request.prompt_ids))

    def of_prompt(self, prompt_ids: Sequence[int]) -> str:
        """What such a prompt is about; empty: nothing that is known."""
        return NO_TASK if self._classifier is None else self._classifier.task(prompt_ids)

    @property
    def are_told(self) -> bool:
        """Whether requests are told apart."""
        return self._classifier is not None

    def to_json(self) -> dict[str, Any] | None:
        """For health: the tasks, or the problem; None without a partition."""
        if self.problem is not None:
            return {"status": "unavailable", "problem": self.problem}
        if self._classifier is None:
            return None
        return {"status": "ok", "names": list(self._classifier.names)}


def open_classifier(pool: Pool) -> TaskClassifier | None:
    """The classifier of the pool's partition; None: it names none.

    Raises:
        ConfigError: the partition cannot be used with this pool.
    """
    file = tasks_file(pool)
    if file is None:
        return None
    vocabulary = read_vocabulary(pool.directories[pool.config.target.name])
    return TaskClassifier(read_model(file, vocabulary_hash(vocabulary)))
