"""Where a text repeats itself: an index of its n-grams, and what followed the longest match."""

from array import array
from collections.abc import Sequence

from specrouter_dist.speculation.messages import TOKEN_TYPECODE, TokenArray
from specrouter_dist.speculation.tokens import TokenBuffer

MAX_CANDIDATES = 16
"""Most earlier places that one lookup compares, newest first: a bound on its time."""


class NgramIndex:
    """The places at which each n-gram of a stream ends, newest first.

    One dictionary holds the newest place of each n-gram and one array the place before each
    place, as in LZ77. Growing and shrinking cost time per token added or removed.

    Args:
        stream: the indexed stream; it changes through this index alone.
        num_tokens: length of the n-grams.
    """

    __slots__ = ("_newest", "_num_tokens", "_older", "_stream")

    def __init__(self, stream: TokenBuffer, num_tokens: int) -> None:
        self._stream = stream
        self._num_tokens = num_tokens
        self._newest: dict[bytes, int] = {}
        self._older = array("q", [0])
        self._index(0)

    def append(self, tokens: Sequence[int]) -> None:
        """The stream grows by ``tokens``."""
        old_length = len(self._stream)
        self._stream.append(tokens)
        self._index(old_length)

    def truncate(self, length: int) -> None:
        """The stream keeps its first ``length`` tokens."""
        for end, gram in reversed(self._grams(length, len(self._stream))):
            if self._older[end]:
                self._newest[gram] = self._older[end]
            else:
                del self._newest[gram]
        del self._older[length + 1 :]
        self._stream.truncate(length)

    def older_places(self, end: int) -> list[int]:
        """Where the n-gram that ends at ``end`` ended before, newest first."""
        places: list[int] = []
        place = self._older[end]
        while place and len(places) < MAX_CANDIDATES:
            places.append(place)
            place = self._older[place]
        return places

    def _index(self, old_length: int) -> None:
        self._older.extend([0] * (len(self._stream) - old_length))
        for end, gram in self._grams(old_length, len(self._stream)):
            self._older[end] = self._newest.get(gram, 0)
            self._newest[gram] = end

    def _grams(self, start: int, stop: int) -> list[tuple[int, bytes]]:
        """The n-grams that end in ``(start, stop]``, each with its end."""
        first = max(start + 1, self._num_tokens)
        tokens = self._stream.slice(first - self._num_tokens, stop)
        step = tokens.itemsize
        size = self._num_tokens * step
        raw = tokens.tobytes()
        num_grams = stop + 1 - first
        return [(first + i, raw[i * step : i * step + size]) for i in range(num_grams)]


class Matcher:
    """A stream, and what followed the places where it has read like this before.

    Args:
        tokens: the stream to begin with.
        min_match_tokens: shortest suffix of the stream worth continuing, at least 1.
        max_match_tokens: longest suffix compared.
    """

    __slots__ = ("_index", "_max_match", "_min_match", "stream")

    def __init__(
        self, tokens: Sequence[int], *, min_match_tokens: int, max_match_tokens: int
    ) -> None:
        assert 1 <= min_match_tokens <= max_match_tokens
        self.stream = TokenBuffer(tokens)
        self._index = NgramIndex(self.stream, min_match_tokens)
        self._min_match = min_match_tokens
        self._max_match = max_match_tokens

    def append(self, tokens: Sequence[int]) -> None:
        """The stream grows by ``tokens``."""
        self._index.append(tokens)

    def truncate(self, length: int) -> None:
        """The stream keeps its first ``length`` tokens."""
        self._index.truncate(length)

    def continuation(self, num_wanted: int) -> TokenArray:
        """What followed the longest match; of equally long ones the newest long enough."""
        return self.continuation_at(len(self.stream), num_wanted)

    def continuation_at(self, length: int, num_wanted: int) -> TokenArray:
        """The same when the stream was so long."""
        if num_wanted < 1:
            return array(TOKEN_TYPECODE)
        best_place, best = 0, (self._min_match, 0)
        for place in self._index.older_places(length):
            match = self._match(place, length, at_least=best[0])
            found = match, min(num_wanted, length - place)
            if found > best:
                best_place, best = place, found
                if found == (self._max_match, num_wanted):
                    break
        return self.stream.slice(best_place, best_place + best[1])

    def _match(self, place: int, length: int, at_least: int) -> int:
        """How many tokens before ``place`` equal those before ``length``; 0 if too few."""
        tokens = self.stream
        match, longest = at_least, min(self._max_match, place)
        suffix = tokens.slice(length - match, length)
        if match > longest or tokens.slice(place - match, place) != suffix:
            return 0
        while match < longest and tokens[place - match - 1] == tokens[length - match - 1]:
            match += 1
        return match
