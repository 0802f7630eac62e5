"""A stream of tokens that grows by appending and shrinks by setting a length."""

from array import array
from collections.abc import Sequence

from specrouter_dist.speculation.messages import TOKEN_TYPECODE, TokenArray

_MASK64 = (1 << 64) - 1
_HASH_SEED = 0x9E3779B97F4A7C15
_HASH_PRIME = 0xD6E8FEB86659FD93


def extend_hash(prefix_hash: int, token: int) -> int:
    """The rolling 64-bit hash of a prefix and one more token."""
    mixed = ((prefix_hash ^ token) * _HASH_PRIME) & _MASK64
    return mixed ^ (mixed >> 32)


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """Number of leading elements in which ``a`` and ``b`` are equal."""
    shorter = min(len(a), len(b))
    if a[:shorter] == b[:shorter]:
        return shorter
    return next(i for i in range(shorter) if a[i] != b[i])


class TokenBuffer:
    """Tokens at positions ``[0, len)`` with the hash of every prefix.

    Storage only grows; :meth:`truncate` sets an integer, so a rollback costs the same at any
    length (invariant 4). What lies past the length is overwritten by the next append.
    """

    __slots__ = ("_hashes", "_length", "_tokens")

    def __init__(self, tokens: Sequence[int] = ()) -> None:
        self._tokens: array[int] = array(TOKEN_TYPECODE)
        self._hashes: array[int] = array("Q", [_HASH_SEED])
        self._length = 0
        self.append(tokens)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, position: int) -> int:
        if not 0 <= position < self._length:
            raise IndexError(position)
        return self._tokens[position]

    def slice(self, start: int, stop: int) -> TokenArray:
        """A copy of the tokens at positions ``[start, min(stop, len))``."""
        return self._tokens[start : min(stop, self._length)]

    def append(self, tokens: Sequence[int]) -> None:
        """Puts ``tokens`` at the end of the stream."""
        stop = self._length + len(tokens)
        self._tokens[self._length : stop] = array(TOKEN_TYPECODE, tokens)
        prefix_hash = self._hashes[self._length]
        hashes = array("Q")
        for token in tokens:
            prefix_hash = extend_hash(prefix_hash, token)
            hashes.append(prefix_hash)
        self._hashes[self._length + 1 : stop + 1] = hashes
        self._length = stop

    def truncate(self, length: int) -> None:
        """Keeps the first ``length`` tokens."""
        assert 0 <= length <= self._length
        self._length = length

    def hash_at(self, position: int) -> int:
        """Hash of the tokens before ``position``, for positions in ``[0, len]``."""
        if not 0 <= position <= self._length:
            raise IndexError(position)
        return self._hashes[position]
