"""Whatever clustered the prompts, distilled into a linear model over their n-grams."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar
from scipy.sparse import csr_matrix
from sklearn.linear_model import LogisticRegression

from specrouter_dist.tasks.features import FloatArray, IdArray

_SURE = 0.9
"""Whoever is so sure has a task, however surer it is of all that it was made of."""
_INVERSE_REGULARISATION = 10.0
_MOST_ITERATIONS = 300
_UNKNOWN_SHARE = 0.02
"""So many held-out prompts of the traffic itself are said to be of no task. What is unlike the
traffic is so more often; the price is that these are drafted for as any request of their regime."""
_TEMPERATURES = (0.5, 10.0)
"""Of few held-out prompts all may be right; that does not make the classifier sure of itself."""


@dataclass(frozen=True, slots=True)
class Learned:
    """A linear model and how it does on prompts that it has not seen."""

    weights: FloatArray
    """Shape [num_buckets, num_tasks]."""
    bias: FloatArray
    temperature: float
    least_probability: float
    accuracy: float
    """Share of the held-out prompts that it gives to their cluster."""
    confusion: npt.NDArray[np.int64]
    """``[i, j]``: held-out prompts of cluster i that it gives to j."""


def learn(matrix: csr_matrix, labels: IdArray, is_held_out: npt.NDArray[np.bool_]) -> Learned:
    """Learns from some prompts and calibrates with the others.

    Args:
        matrix: features, shape [num_prompts, num_buckets].
        labels: the cluster of each prompt.
        is_held_out: which prompts calibrate.
    """
    num_tasks = int(labels.max()) + 1
    if num_tasks == 1:
        return _only_task(matrix.shape[1], int(is_held_out.sum()))
    model = LogisticRegression(C=_INVERSE_REGULARISATION, max_iter=_MOST_ITERATIONS)
    model.fit(matrix[~is_held_out], labels[~is_held_out])
    weights, bias = _of_each_task(model, num_tasks)
    scores, wanted = matrix[is_held_out] @ weights + bias, labels[is_held_out]
    temperature = _calibrated(scores, wanted)
    confusion = np.zeros((num_tasks, num_tasks), np.int64)
    np.add.at(confusion, (wanted, scores.argmax(axis=1)), 1)
    likeliest = _log_softmax(scores / temperature).max(axis=1)
    return Learned(
        weights=weights,
        bias=bias,
        temperature=temperature,
        least_probability=min(_SURE, float(np.exp(np.quantile(likeliest, _UNKNOWN_SHARE)))),
        accuracy=float(np.trace(confusion) / confusion.sum()),
        confusion=confusion,
    )


def _only_task(num_buckets: int, num_held_out: int) -> Learned:
    zeros = np.zeros((num_buckets, 1), np.float32)
    confusion = np.array([[num_held_out]])
    return Learned(zeros, zeros[0], 1.0, 0.0, 1.0, confusion)


def _of_each_task(model: LogisticRegression, num_tasks: int) -> tuple[FloatArray, FloatArray]:
    """Of two classes the library keeps the difference alone."""
    weights, bias = model.coef_.astype(np.float32), model.intercept_.astype(np.float32)
    if num_tasks == 2:
        weights, bias = np.stack((-weights[0], weights[0])) / 2, np.stack((-bias[0], bias[0])) / 2
    return np.ascontiguousarray(weights.T), bias


def _calibrated(scores: FloatArray, wanted: IdArray) -> float:
    """The temperature at which held-out clusters are likeliest (Guo et al., arXiv 1706.04599)."""
    rows = np.arange(len(wanted))

    def loss(log_temperature: float) -> float:
        return -float(_log_softmax(scores / np.exp(log_temperature))[rows, wanted].mean())

    found = minimize_scalar(loss, bounds=np.log(_TEMPERATURES), method="bounded")
    return float(np.exp(found.x))


def _log_softmax(scores: FloatArray) -> FloatArray:
    shifted = scores - scores.max(axis=1, keepdims=True)
    log_shares: FloatArray = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return log_shares
