"""How alike two members' laws are, from the few likeliest ids of each.

A *sparse row* lists the likeliest ids of a law and the mass that all others share. Two of them do
not determine the total variation distance ``TV = 1 - sum_v min(p_v, q_v)``, but they enclose it.
Members that share their noise draw the same token with a probability between ``(1 - TV)/(1 + TV)``
and ``1 - TV`` (DESIGN: section 8).
"""

from dataclasses import dataclass
from math import fsum
from typing import Self

import numpy as np
import numpy.typing as npt

SPARSE_ROW_IDS = 64
"""Most ids that a sparse row lists."""


@dataclass(frozen=True, slots=True)
class SparseRow:
    """One law, cut to its likeliest ids. No id left out is likelier than one that is listed."""

    top: tuple[tuple[int, float], ...]
    """Ids and their probabilities, likeliest first; never 0."""
    tail: float
    """Mass of all other ids; exactly 0 if they are impossible."""

    @classmethod
    def of(cls, law: npt.NDArray[np.float64], num_ids: int = SPARSE_ROW_IDS) -> Self:
        """The row of a dense law; of equally likely ids the lowest are listed.

        Args:
            law: probabilities ``[vocab_size]``.
            num_ids: most ids to list.
        """
        order = np.argsort(-law, kind="stable")
        listed = [int(i) for i in order[:num_ids] if law[i] > 0.0]
        tail = fsum(law[order[num_ids:]].tolist())
        return cls(tuple((i, float(law[i])) for i in listed), tail)


def tv_bounds(one: SparseRow, other: SparseRow) -> tuple[float, float]:
    """The least and the greatest total variation distance that two sparse rows allow.

    Both ends are met by some pair of laws with these rows, if the vocabulary is large enough to
    spread the tails over; a smaller one can only narrow the interval. Of the overlap
    ``sum_v min(p_v, q_v)``, the part ``c`` of the ids that both rows list is known.

    *Greatest distance*: the tails lie on ids of their own, the overlap is ``c``.

    *Least distance*: an id that only ``p`` lists adds ``min(p_v, q_v)``, where ``q_v`` comes out
    of ``q``'s tail and is at most ``b``, the least probability that ``q`` lists. So these ids take
    at most ``x = min(tail_q, sum_v min(p_v, b))`` of the tail, and each bit that they take is
    overlap; ``y`` likewise the other way round. What is left of the tails may coincide on ids that
    neither lists: the overlap is ``c + x + y + min(tail_q - x, tail_p - y)``, which grows with
    ``x`` and with ``y``, so that both at their greatest are best.

    With both tails 0 the ends are equal.

    Returns:
        lower and upper bound, ``0 <= lower <= upper <= 1``.
    """
    p, q = dict(one.top), dict(other.top)
    shared = fsum(min(p[i], q[i]) for i in p.keys() & q.keys())
    x = _most_reached(one, other)
    y = _most_reached(other, one)
    overlap = shared + x + y + min(other.tail - x, one.tail - y)
    upper = min(1.0, max(0.0, 1.0 - shared))
    return min(upper, max(0.0, 1.0 - overlap)), upper


def _most_reached(row: SparseRow, other: SparseRow) -> float:
    """Most overlap of ``other``'s tail with the ids that only ``row`` lists."""
    listed = dict(other.top)
    least = min(listed.values())
    return min(other.tail, fsum(min(p, least) for i, p in row.top if i not in listed))
