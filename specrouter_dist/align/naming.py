"""What tasks are called: by the words that occur in their prompts and not in the others'."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix
from sklearn.feature_extraction.text import CountVectorizer

from specrouter_dist.tasks.features import IdArray

NUM_TERMS = 8
_WORD = r"(?u)[^\W\d_]{3,}"
_NUM_NAMING_TERMS = 2
_MOST_CHARS = 48
_LEAST_PROMPTS = 2
"""A word of one prompt says nothing of a task."""


def telling_terms(texts: Sequence[str], labels: IdArray, num_tasks: int) -> list[tuple[str, ...]]:
    """The most telling words of each task, the first tells most.

    A word tells a task by the share of the task's prompts that have it, times the logarithm of how
    much larger that share is than among the others.
    """
    counter = CountVectorizer(token_pattern=_WORD, binary=True, min_df=_LEAST_PROMPTS)
    try:
        occurs = counter.fit_transform(texts)
    except ValueError:
        # No word is in two prompts, e.g. in scripts without spaces.
        return [()] * num_tasks
    words = counter.get_feature_names_out()
    found = []
    for task in range(num_tasks):
        inside = _share(occurs[labels == task])
        outside = _share(occurs[labels != task])
        telling = inside * np.log((inside + 1e-3) / (outside + 1e-3))
        order = np.lexsort((words, -telling))[:NUM_TERMS]
        found.append(tuple(str(words[i]) for i in order if telling[i] > 0))
    return found


def names_of(terms: Sequence[tuple[str, ...]]) -> list[str]:
    """A name for each task, none twice: of its words those that name no task before it."""
    names: list[str] = []
    used: set[str] = set()
    for number, words in enumerate(terms, start=1):
        own = [word for word in words if word not in used][:_NUM_NAMING_TERMS]
        used.update(own)
        names.append("-".join(own)[:_MOST_CHARS] or f"task-{number}")
    return names


def _share(occurs: csr_matrix) -> npt.NDArray[np.float64]:
    counts: npt.NDArray[np.int64] = np.asarray(occurs.sum(axis=0)).ravel()
    return np.divide(counts, max(1, occurs.shape[0]), dtype=np.float64)
