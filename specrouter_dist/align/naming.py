"""What tasks are called: by the words that occur in their prompts and not in the others'."""

import re
from collections.abc import Sequence

import numpy as np
from sklearn.feature_extraction.text import CountVectorizer

from specrouter_dist.tasks.features import IdArray

NUM_TERMS = 8
_WORD = r"(?u)[^\W\d_]{3,}"
_NUM_NAMING_TERMS = 2
_LEAST_PROMPTS = 2
"""A word of one prompt says nothing of a task."""


def telling_terms(
    texts: Sequence[str], labels: IdArray, num_tasks: int
) -> list[tuple[str, ...]]:
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
    """A name for each task, none twice."""
    names: list[str] = []
    for number, words in enumerate(terms, start=1):
        name = "-".join(words[:_NUM_NAMING_TERMS]) or f"task-{number}"
        name = re.sub(r"[^\w-]", "", name)[:48] or f"task-{number}"
        names.append(name if name not in names else f"{name}-{number}")
    return names


def _share(occurs: "np.ndarray") -> "np.ndarray":  # type: ignore[type-arg]
    num_prompts = max(1, occurs.shape[0])
    share: np.ndarray = np.asarray(occurs.sum(axis=0)).ravel() / num_prompts  # type: ignore[type-arg]
    return share
