"""How many kinds of prompts there are, and which prompt is of which kind.

K-means as in "Automatic Task Detection and Heterogeneous LLM Speculative Decoding" (arXiv
2505.08600), which does not say how the number is chosen. Here it is what repeats: two halves of the
prompts are clustered apart, and both say to which cluster the rest belongs. With a wrong number the
cuts lie where chance has put them, and the two differ (Lange et al., "Stability-based validation of
clustering solutions", 2004).
"""

from dataclasses import dataclass

import numpy as np
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score, silhouette_score

from specrouter_dist.tasks.features import FloatArray, IdArray

NUM_SPLITS = 6
_LEAST_STABILITY = 0.6
"""Below this no number repeats: the prompts are of one kind."""
_MOST_SILHOUETTE_PROMPTS = 3000
"""It takes the square of them."""
_STARTS = 4


@dataclass(frozen=True, slots=True)
class Trial:
    """What speaks for one number of tasks."""

    num_tasks: int
    stability: float
    """Adjusted Rand index of two halves' clusters on the rest, mean over ``NUM_SPLITS`` splits."""
    stability_error: float
    """Standard error of that mean."""
    silhouette: float
    """How much nearer prompts are to their own cluster than to the next. Shown, not used: it grows
    with ever smaller clusters."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The number of tasks, and why."""

    num_tasks: int
    trials: tuple[Trial, ...]
    why: str


def choose_number(vectors: FloatArray, most_tasks: int, seed: int) -> Choice:
    """The fewest tasks that repeat as well as the best number does, within one standard error.

    Args:
        vectors: embedded prompts, shape [num_prompts, num_dimensions], of length 1.
    """
    trials = tuple(_try(vectors, number, seed) for number in range(2, most_tasks + 1))
    best = max(trials, key=lambda trial: trial.stability, default=None)
    if best is None or best.stability < _LEAST_STABILITY:
        found = "no number was tried" if best is None else f"the best has {best.stability:.2f}"
        why = (
            f"one task: no partition repeats in two halves of the prompts (adjusted Rand index of "
            f"at least {_LEAST_STABILITY}; {found})"
        )
        return Choice(1, trials, why)
    least = best.stability - max(best.stability_error, 0.01)
    fewest = next(trial for trial in trials if trial.stability >= least)
    why = (
        f"{fewest.num_tasks} tasks: two halves of the prompts make the same clusters of the rest "
        f"(adjusted Rand index {fewest.stability:.3f}); {best.num_tasks} repeat best "
        f"({best.stability:.3f} +- {best.stability_error:.3f}), and no fewer do as well"
    )
    return Choice(fewest.num_tasks, trials, why)


def cluster(vectors: FloatArray, num_tasks: int, seed: int) -> IdArray:
    """The cluster of each prompt; 0 is the largest."""
    labels = KMeans(num_tasks, n_init=_STARTS, random_state=seed).fit_predict(vectors)
    order = np.argsort(-np.bincount(labels, minlength=num_tasks), kind="stable")
    found: IdArray = np.argsort(order)[labels]
    return found


def _try(vectors: FloatArray, num_tasks: int, seed: int) -> Trial:
    rng = np.random.default_rng((seed, num_tasks))
    scores = [_repeats(vectors, num_tasks, rng.permutation(len(vectors))) for _ in range(NUM_SPLITS)]
    sample = vectors[rng.permutation(len(vectors))[:_MOST_SILHOUETTE_PROMPTS]]
    labels = KMeans(num_tasks, n_init=_STARTS, random_state=seed).fit_predict(sample)
    return Trial(
        num_tasks,
        float(np.mean(scores)),
        float(np.std(scores, ddof=1) / np.sqrt(NUM_SPLITS)),
        float(silhouette_score(sample, labels)),
    )


def _repeats(vectors: FloatArray, num_tasks: int, order: IdArray) -> float:
    parts = np.array_split(vectors[order], 3)
    first, second = (
        KMeans(num_tasks, n_init=_STARTS, random_state=number).fit(part).predict(parts[2])
        for number, part in enumerate(parts[:2])
    )
    return float(adjusted_rand_score(first, second))
