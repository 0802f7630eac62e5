"""How alike two members' laws are, from the few likeliest ids of each, at any temperature.

A *sparse row* lists the likeliest ids of a law before temperature and the mass that all others
share. From it follows, up to what the others may hold, the law after a temperature and top-p. Two
of them do not determine the total variation distance ``TV = 1 - sum_v min(p_v, q_v)``, but they
enclose it. Members that share their noise draw the same token with a probability between
``(1 - TV)/(1 + TV)`` and ``1 - TV`` (DESIGN: section 8).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

SPARSE_ROW_IDS = 64
"""Most ids that a sparse row lists."""
MAX_ROWS = 8
"""Most positions of a text at which laws are compared."""
_ROUNDING = 1e-3
"""Log-probabilities are float32, sums of them less exact."""
_LEAST_LOG = -600.0
"""Below it a ratio of probabilities counts as this: its powers must stay finite."""

Floats = npt.NDArray[np.float64]
Ids = npt.NDArray[np.int64]


def sampled_positions(num_positions: int) -> range:
    """At which of a text's positions laws are compared: the same for all who read it."""
    count = min(MAX_ROWS, num_positions)
    step = num_positions // count if count else 1
    return range(step // 2, step // 2 + step * count, step)


@dataclass(frozen=True, slots=True, eq=False)
class SparseRows:
    """Laws before temperature, each cut to equally many of its likeliest ids."""

    ids: npt.NDArray[np.uint32]
    """``[num_rows, num_ids]``, the likeliest first. No id left out is likelier than these."""
    logprobs: npt.NDArray[np.float32]
    """Of these, natural logarithms, ``[num_rows, num_ids]``."""
    tails: Floats
    """``[num_rows]``: mass of all other ids."""
    vocab_size: int

    @classmethod
    def of(cls, laws: Floats, num_ids: int = SPARSE_ROW_IDS) -> Self:
        """Of dense laws ``[num_rows, vocab_size]``; of equally likely ids the lowest are listed."""
        order = np.argsort(-laws, axis=1, kind="stable")
        ids, others = order[:, :num_ids], order[:, num_ids:]
        logprobs = np.log(np.take_along_axis(laws, ids, 1)).astype(np.float32)
        tails: Floats = np.take_along_axis(laws, others, 1).sum(axis=1)
        return cls(ids.astype(np.uint32), logprobs, tails, laws.shape[1])

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """The rows of all parts, which are of one model."""
        return cls(
            np.concatenate([part.ids for part in parts]),
            np.concatenate([part.logprobs for part in parts]),
            np.concatenate([part.tails for part in parts]),
            parts[0].vocab_size,
        )

    def __len__(self) -> int:
        return len(self.tails)

    @property
    def is_plausible(self) -> bool:
        """Whether a model can have said so. Whatever the fields are: they come from elsewhere."""
        return self._has_shape() and self._are_laws()

    def _has_shape(self) -> bool:
        arrays = (self.ids, self.logprobs, self.tails)
        kinds = [array.dtype.str[1:] if isinstance(array, np.ndarray) else "" for array in arrays]
        if kinds != ["u4", "f4", "f8"] or type(self.vocab_size) is not int:
            return False
        shape = self.ids.shape
        return (
            self.ids.ndim == 2
            and self.logprobs.shape == shape
            and self.tails.shape == shape[:1]
            and 1 <= shape[0] <= MAX_ROWS
            and 1 <= shape[1] <= min(SPARSE_ROW_IDS, self.vocab_size)
        )

    def _are_laws(self) -> bool:
        if not (np.isfinite(self.logprobs).all() and np.isfinite(self.tails).all()):
            return False
        ordered = np.sort(self.ids, axis=1)
        if (ordered[:, 1:] == ordered[:, :-1]).any() or (ordered[:, -1] >= self.vocab_size).any():
            return False
        logprobs = self.logprobs.astype(np.float64)
        if (logprobs > _ROUNDING).any() or (np.diff(logprobs, axis=1) > 0.0).any():
            return False
        listed = np.exp(logprobs)
        num_others = self.vocab_size - self.ids.shape[1]
        most = listed[:, -1] * num_others * (1 + _ROUNDING) + _ROUNDING
        total = listed.sum(axis=1) + self.tails
        return bool(
            (self.tails >= 0.0).all()
            and (self.tails <= most).all()
            and (np.abs(total - 1.0) <= _ROUNDING).all()
        )


@dataclass(frozen=True, slots=True, eq=False)
class Laws:
    """What sparse rows allow of the laws that are drawn from, in one way or in several: ``...``
    stands for nothing, or for ``num_ways``."""

    least: Floats
    """``[..., num_rows, num_ids]``: probabilities of the listed ids if the others have all they
    may."""
    most: Floats
    """The same if the others have as little as they may."""
    tails: Floats
    """``[..., num_rows]``: most mass of all others."""

    @classmethod
    def make(
        cls, rows: SparseRows, temperature: float | Floats, top_p: float | Floats = 1.0
    ) -> Self:
        """After ``temperature``, above 0, and ``top_p``, each one or ``[num_ways]``. Where the ids
        that top-p keeps are not all listed, nothing is cut."""
        power = 1.0 / np.asarray(temperature)[..., None]
        logprobs = rows.logprobs.astype(np.float64)
        weights: Floats = np.exp(power[..., None] * (logprobs - logprobs[:, :1]))
        low, high = _tempered_tails(rows, power)
        listed = weights.sum(axis=-1)
        least = weights / (listed + high)[..., None]
        most = weights / (listed + low)[..., None]
        tails = high / (listed + high)
        top_p = np.asarray(top_p)[..., None]
        if (top_p < 1.0).any():
            before = np.cumsum(least, axis=-1) - least
            kept = np.where(before < top_p[..., None], weights, 0.0)
            whole = least.sum(axis=-1) < top_p
            cut = kept / kept.sum(axis=-1, keepdims=True)
            least, most = (np.where(whole[..., None], law, cut) for law in (least, most))
            tails = np.where(whole, tails, 0.0)
        return cls(least, most, tails)


def _tempered_tails(rows: SparseRows, power: Floats) -> tuple[Floats, Floats]:
    """Least and greatest sum of ``p ** power`` over the ids not listed, the likeliest id's being 1.

    Their sum is known, and that none is above the least listed one. The two extremes of a convex
    (concave) function: as much as possible on as few ids as possible, or all alike.
    """
    num_others = rows.vocab_size - rows.ids.shape[1]
    if num_others == 0:
        nothing = np.zeros(np.broadcast_shapes(power.shape, (len(rows),)))
        return nothing, nothing
    logprobs = rows.logprobs.astype(np.float64)
    least = np.exp(np.maximum(logprobs[:, -1] - logprobs[:, 0], _LEAST_LOG))
    tails = rows.tails / np.exp(logprobs[:, 0])
    # Where nothing is left the mean is of no consequence, but 0 has no negative powers.
    mean = np.where(tails > 0.0, tails / num_others, 1.0)
    packed, spread = tails * least ** (power - 1.0), tails * mean ** (power - 1.0)
    return np.minimum(packed, spread), np.maximum(packed, spread)


class Matched:
    """Which ids two members' rows of the same positions have in common.

    Args:
        one: ids ``[num_rows, num_ids]``.
        other: ids ``[num_rows, num_ids]``, of as many rows.
    """

    def __init__(self, one: SparseRows, other: SparseRows) -> None:
        same = one.ids[:, :, None] == other.ids[:, None, :]
        self._place: Ids = same.argmax(axis=2)
        """Of each id of ``one`` among those of ``other``, if it is there."""
        self._row: Ids = np.arange(len(one))[:, None]
        self._shared = same.any(axis=2)
        self._shared_other = same.any(axis=1)
        self.picks_agree = one.ids[:, 0] == other.ids[:, 0]
        """Per row: whether the likeliest ids are the same."""

    def tv_bounds(self, one: Laws, other: Laws) -> tuple[Floats, Floats]:
        """The least and the greatest total variation distance that the rows allow.

        Of the overlap ``sum_v min(p_v, q_v)``, the part ``c`` of the ids that both list is known,
        up to what tempering leaves open.

        *Greatest distance*: the tails lie on ids of their own, the overlap is ``c``.

        *Least distance*: an id that only ``p`` lists adds ``min(p_v, q_v)``, where ``q_v`` comes
        out of ``q``'s tail and is at most ``b``, the least probability that ``q`` lists. So these
        ids take at most ``x = min(tail_q, sum_v min(p_v, b))`` of the tail, and each bit that they
        take is overlap; ``y`` likewise the other way round. What is left of the tails may coincide
        on ids that neither lists: the overlap is ``c + x + y + min(tail_q - x, tail_p - y)``, which
        grows with ``x`` and with ``y``, so that both at their greatest are best.

        At temperature 1 some pair of laws meets each end; with both tails 0 they are equal.

        Returns:
            lower and upper bounds ``[..., num_rows]``, ``0 <= lower <= upper <= 1``.
        """
        upper = 1.0 - self._shared_overlap(one.least, other.least)
        x = np.minimum(other.tails, _capped(one.most, ~self._shared, other.most))
        y = np.minimum(one.tails, _capped(other.most, ~self._shared_other, one.most))
        overlap = self._shared_overlap(one.most, other.most) + x + y
        overlap += np.minimum(other.tails - x, one.tails - y)
        upper = np.clip(upper, 0.0, 1.0)
        return np.minimum(np.clip(1.0 - overlap, 0.0, 1.0), upper), upper

    def _shared_overlap(self, one: Floats, other: Floats) -> Floats:
        there = other[..., self._row, self._place]
        overlap: Floats = np.where(self._shared, np.minimum(one, there), 0.0).sum(axis=-1)
        return overlap


def _capped(law: Floats, alone: npt.NDArray[np.bool_], other: Floats) -> Floats:
    """Mass of the ids that stand ``alone``, none counted for more than ``other``'s least."""
    mass: Floats = np.where(alone, np.minimum(law, other[..., -1:]), 0.0).sum(axis=-1)
    return mass
