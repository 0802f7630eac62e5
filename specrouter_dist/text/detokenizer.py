"""From a growing list of tokens to a growing text."""

import codecs
from collections.abc import Iterable, Sequence


class Detokenizer:
    """Text of tokens as they come; no piece ends within a UTF-8 character.

    The pieces together do not depend on how the tokens were cut. Bytes that are no UTF-8 become
    U+FFFD, one for each maximal part that could have begun a character.
    """

    def __init__(self, token_bytes: Sequence[bytes]) -> None:
        """``token_bytes``: the bytes of every id, see :mod:`specrouter_dist.text.token_bytes`."""
        self._token_bytes = token_bytes
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, tokens: Iterable[int]) -> str:
        """The text that ``tokens`` add; bytes of a character that is not whole yet wait."""
        return self._decoder.decode(b"".join(self._token_bytes[token] for token in tokens))

    def finish(self) -> str:
        """What the waiting bytes come to when nothing follows: nothing, or U+FFFD."""
        return self._decoder.decode(b"", final=True)
