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
from tqdm import tqdm

from specrouter_dist.tasks.features import FloatArray, IdArray

NUM_SPLITS = 6
_LEAST_STABILITY = 0.8
"""Of a number of tasks that repeats. Prediction strength, a close relative, is usually asked to be
0.8 to 0.9 (Tibshirani and Walther, "Cluster validation by prediction strength", 2005)."""
_MOST_TRIED_PROMPTS = 12_000
_MOST_SILHOUETTE_PROMPTS = 3000
"""It takes the square of them."""
_SAME_DIGITS = 4
_STARTS = 8
"""Of K-means, of which the best counts: a bad start looks like a number that does not repeat."""


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
    """The most tasks that repeat: narrower tasks have drafters that know them better, as long as
    they are there and not where chance has cut.

    Args:
        vectors: embedded prompts, shape [num_prompts, num_dimensions], of length 1.
    """
    order = np.random.default_rng(seed).permutation(len(vectors))
    tried = vectors[order[:_MOST_TRIED_PROMPTS]]
    most = min(most_tasks, _num_distinct(tried))
    numbers = tqdm(range(2, most + 1), desc="cluster", unit="number")
    trials = tuple(_try(tried, number, seed) for number in numbers)
    repeating = [trial for trial in trials if trial.stability >= _LEAST_STABILITY]
    rule = (
        "two halves of the prompts, clustered apart, say the same of the rest (adjusted Rand "
        f"index of at least {_LEAST_STABILITY}"
    )
    if not repeating:
        return Choice(1, trials, f"1 task: with no number {rule})")
    chosen = repeating[-1]
    why = f"{chosen.num_tasks} tasks: the most with which {rule}; it is {chosen.stability:.3f})"
    return Choice(chosen.num_tasks, trials, why)


def cluster(vectors: FloatArray, num_tasks: int, seed: int) -> IdArray:
    """The cluster of each prompt; 0 is the largest."""
    labels = KMeans(num_tasks, n_init=_STARTS, random_state=seed).fit_predict(vectors)
    order = np.argsort(-np.bincount(labels, minlength=num_tasks), kind="stable")
    found: IdArray = np.argsort(order)[labels]
    return found


def _try(vectors: FloatArray, num_tasks: int, seed: int) -> Trial:
    rng = np.random.default_rng((seed, num_tasks))
    scores = [
        _repeats(vectors, num_tasks, rng.permutation(len(vectors))) for _ in range(NUM_SPLITS)
    ]
    sample = vectors[rng.permutation(len(vectors))[:_MOST_SILHOUETTE_PROMPTS]]
    labels = KMeans(num_tasks, n_init=_STARTS, random_state=seed).fit_predict(sample)
    return Trial(
        num_tasks,
        float(np.mean(scores)),
        float(np.std(scores, ddof=1) / np.sqrt(NUM_SPLITS)),
        float(silhouette_score(sample, labels)),
    )


def _num_distinct(vectors: FloatArray) -> int:
    """There are no more clusters than points; equal prompts are points that differ by rounding."""
    return len(np.unique(vectors.round(_SAME_DIGITS), axis=0))


def _repeats(vectors: FloatArray, num_tasks: int, order: IdArray) -> float:
    parts = np.array_split(vectors[order], 3)
    if min(map(_num_distinct, parts[:2])) < num_tasks:
        return 0.0
    first, second = (
        KMeans(num_tasks, n_init=_STARTS, random_state=number).fit(part).predict(parts[2])
        for number, part in enumerate(parts[:2])
    )
    return float(adjusted_rand_score(first, second))
