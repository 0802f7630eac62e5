"""A prompt's token ids as a sparse vector: hashed n-grams, the last turn of a conversation first.

Learning and serving see prompts through this module alone. Special tokens are no features: they
part the turns, so a prompt is about the same with a chat template and without.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]
IdArray = npt.NDArray[np.int64]

WINDOW_TOKENS = 2048
"""Only so many last tokens of a prompt are looked at, so a long one costs no more."""
_MOST_TURNS = 4
"""The last of them; those before hardly count."""
_EARLIER_TURN = 0.25
"""As so much of the turn after it a turn counts."""
_WHOLE_TURN_TOKENS = 16
"""A shorter turn ("Thanks!") counts as the less, and those before it as the more."""
_MULTIPLIERS = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F], dtype=np.uint64)


@dataclass(frozen=True, slots=True)
class Features:
    """A sparse vector of length 1, or 0 where there is nothing to say."""

    buckets: IdArray
    """Ascending, each once."""
    weights: FloatArray


EMPTY = Features(np.empty(0, np.int64), np.empty(0, np.float32))


class Ngrams:
    """Makes features.

    Args:
        num_buckets: that single tokens and pairs of neighbours are hashed to; a power of two.
        separators: ids that part turns.
        idf: how much each bucket says, shape [num_buckets]; None: all the same.
    """

    def __init__(
        self, num_buckets: int, separators: Sequence[int], idf: FloatArray | None = None
    ) -> None:
        self._shift = np.uint64(64 - (num_buckets - 1).bit_length())
        self._separators = np.array(sorted(separators), np.int64)
        self._idf = np.ones(num_buckets, np.float32) if idf is None else idf

    def of(self, tokens: Sequence[int]) -> Features:
        """Of a prompt, bounded by ``WINDOW_TOKENS``."""
        parts = [
            (share, self._of_turn(turn)) for share, turn in _shares(self._turns(tokens)) if share
        ]
        if len(parts) == 1:
            return parts[0][1]
        return _mixed(parts)

    def _turns(self, tokens: Sequence[int]) -> list[IdArray]:
        """The last first, empty ones left out."""
        ids = np.asarray(tokens[-WINDOW_TOKENS:], np.int64)
        cuts = np.flatnonzero(np.isin(ids, self._separators))
        if not len(cuts):
            return [ids] if len(ids) else []
        bounds = np.concatenate(([-1], cuts, [len(ids)]))[-_MOST_TURNS * 4 - 1 :].tolist()
        turns = [ids[a + 1 : b] for a, b in pairwise(bounds) if b - a > 1]
        return turns[: -_MOST_TURNS - 1 : -1]

    def _of_turn(self, ids: IdArray) -> Features:
        unsigned = ids.astype(np.uint64)
        # The two are told apart by their multipliers; overflow is what makes it a hash.
        singles = (unsigned + np.uint64(1)) * _MULTIPLIERS[0]
        pairs = (singles[:-1] ^ (unsigned[1:] + np.uint64(1))) * _MULTIPLIERS[1]
        hashed = (np.concatenate((singles, pairs)) >> self._shift).astype(np.int64)
        buckets, counts = np.unique(hashed, return_counts=True)
        weights = (1.0 + np.log(counts)).astype(np.float32) * self._idf[buckets]
        return _unit(buckets, weights)


def _shares(turns: Iterable[IdArray]) -> Iterator[tuple[float, IdArray]]:
    """By how much each turn counts, the last first."""
    left = 1.0
    for turn in turns:
        share = left * min(1.0, len(turn) / _WHOLE_TURN_TOKENS)
        yield share, turn
        left = left - share + share * _EARLIER_TURN


def _mixed(parts: Sequence[tuple[float, Features]]) -> Features:
    if not parts:
        return EMPTY
    stacked = np.concatenate([part.buckets for _, part in parts])
    shares = np.concatenate([np.float32(share) * part.weights for share, part in parts])
    buckets, places = np.unique(stacked, return_inverse=True)
    return _unit(buckets, np.bincount(places, shares, len(buckets)).astype(np.float32))


def _unit(buckets: IdArray, weights: FloatArray) -> Features:
    length = np.float32(np.linalg.norm(weights))
    return Features(buckets, weights / length) if length else EMPTY
