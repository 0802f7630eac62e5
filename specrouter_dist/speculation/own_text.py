"""A lookup beside a model: a stage that continues its own text where it repeats itself.

Proposals cost nothing then, and the upstream need not be waited for. The stage's stream may be cut
at any time at no cost (invariant 4), so the index follows it only when it is asked.
"""

from array import array

from specrouter_dist.speculation.matching import Matcher
from specrouter_dist.speculation.messages import TOKEN_TYPECODE, TokenArray
from specrouter_dist.speculation.tokens import TokenBuffer

LONGEST_MATCH_TOKENS = 16


class OwnText:
    """Finds what followed when the stream last ended like this.

    Args:
        match_tokens: fewest last tokens that must have occurred before; 0 finds nothing.
    """

    __slots__ = ("_asked", "_found", "_match_tokens", "_matcher", "_num_followed")

    def __init__(self, match_tokens: int) -> None:
        self._match_tokens = match_tokens
        self._matcher: Matcher | None = None
        self._num_followed = 0
        """So much of the stream the index holds unchanged."""
        self._asked: tuple[int, int, int] | None = None
        self._found: TokenArray = array(TOKEN_TYPECODE)

    def on_cut(self, position: int) -> None:
        """The stream was cut back to ``position``."""
        self._num_followed = min(self._num_followed, position)

    def continuation(self, stream: TokenBuffer, num_wanted: int) -> TokenArray:
        """At most ``num_wanted`` tokens; none if the stream does not repeat itself here."""
        if not self._match_tokens or num_wanted < 1:
            return array(TOKEN_TYPECODE)
        asked = len(stream), stream.hash_at(len(stream)), num_wanted
        if asked != self._asked:
            self._asked = asked
            self._found = self._follow(stream).continuation(num_wanted)
        return self._found

    def _follow(self, stream: TokenBuffer) -> Matcher:
        length = len(stream)
        if self._matcher is None:
            self._matcher = Matcher(
                stream.slice(0, length),
                min_match_tokens=self._match_tokens,
                max_match_tokens=max(self._match_tokens, LONGEST_MATCH_TOKENS),
            )
        else:
            if self._num_followed < len(self._matcher.stream):
                self._matcher.truncate(self._num_followed)
            self._matcher.append(stream.slice(self._num_followed, length))
        self._num_followed = length
        return self._matcher
