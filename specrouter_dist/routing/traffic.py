"""Kinds of requests: those of one kind agree about equally often.

What is known of a kind is a refinement of what is known of its parent: a task within a sampling
regime, a sampling regime within all sampled requests.
"""

from collections.abc import Iterator
from typing import NamedTuple, Self

from specrouter_dist.config import SamplingParams

_WARMEST = (("cool", 0.4), ("warm", 0.9))
"""Temperatures up to which a sampled request is called so; above them it is hot."""


class Traffic(NamedTuple):
    """A kind of request."""

    regime: str
    """``greedy``, ``sampled`` (all that are not greedy), or ``cool``, ``warm``, ``hot``, each also
    ``-truncated`` (by top-k, top-p or min-p)."""
    task: str = ""
    """What the prompt is about, where that is known."""

    @classmethod
    def of(cls, sampling: SamplingParams, task: str = "") -> Self:
        """The kind of a request with these sampling parameters."""
        if sampling.greedy:
            return cls("greedy", task)
        warmth = next((name for name, top in _WARMEST if sampling.temperature <= top), "hot")
        truncated = sampling.top_p < 1.0 or sampling.top_k > 0 or sampling.min_p > 0.0
        return cls(f"{warmth}-truncated" if truncated else warmth, task)

    @property
    def parent(self) -> "Traffic | None":
        """The wider kind; None for the widest."""
        if self.task:
            return Traffic(self.regime)
        return None if self in ROOTS else SAMPLED

    def lineage(self) -> Iterator["Traffic"]:
        """This kind and all wider ones, the narrowest first."""
        kind: Traffic | None = self
        while kind is not None:
            yield kind
            kind = kind.parent


GREEDY = Traffic("greedy")
SAMPLED = Traffic("sampled")
ROOTS = (GREEDY, SAMPLED)
