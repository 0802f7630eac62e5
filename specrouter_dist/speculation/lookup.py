"""A proposer without a model: it continues the longest match found in the prompt and the output.

Where a text repeats itself (code, quotations, tables) this drafts at no device time at all.
"""

from collections.abc import Sequence

from specrouter_dist.speculation.edges import DownstreamEdge
from specrouter_dist.speculation.matching import Matcher
from specrouter_dist.speculation.messages import (
    Message,
    Proposals,
    Truth,
)
from specrouter_dist.speculation.tokens import common_prefix


class LookupStage:
    """One session of the lookup member: the edge interface of a stage that has no upstream.

    Its stream is what downstream has settled. Every Truth is answered with one continuation, up
    to the limit.

    Args:
        tokens: the stream to begin with; its first ``prompt_tokens`` are the prompt.
        prompt_tokens: length of the prompt, at least 1.
        end: no position at or beyond it is wanted.
        min_match_tokens: shortest suffix of the stream worth continuing, at least 1.
        max_match_tokens: longest suffix compared.
    """

    def __init__(
        self,
        tokens: Sequence[int],
        *,
        prompt_tokens: int,
        end: int,
        min_match_tokens: int,
        max_match_tokens: int,
    ) -> None:
        assert 1 <= prompt_tokens <= len(tokens)
        self._matcher = Matcher(
            tokens, min_match_tokens=min_match_tokens, max_match_tokens=max_match_tokens
        )
        self.tokens = self._matcher.stream
        self.down: DownstreamEdge | None = None
        self._end = end
        self._limit = 0

    # -- state, as a worker asks for it --------------------------------------------------------

    @property
    def settled(self) -> int:
        """How much of the stream downstream has confirmed: all of it."""
        return len(self.tokens)

    @property
    def finished(self) -> bool:
        """Whether nothing follows: the stream is as long as it may be."""
        return len(self.tokens) >= self._end

    @property
    def wait_ms(self) -> None:
        """There is nothing to wait for."""
        return None

    def next_step(self) -> None:
        """There is no model to run."""

    # -- downstream: Truths come, proposals go -------------------------------------------------

    def attach_downstream(self, truth: Truth, end: int) -> None:
        """Begins to draft for ``truth.edge``, whose whole stream ``truth`` is (base 0)."""
        assert truth.base == 0
        self.down = DownstreamEdge(truth.edge, version_seen=truth.version - 1)
        self._end = min(self._end, end)
        self.on_truth(truth)

    def detach_downstream(self) -> None:
        """Nobody listens: the stage rests with its index until it is attached again."""
        self.down = None
        self._limit = 0

    def on_truth(self, truth: Truth) -> None:
        """Downstream's stream, as of now, becomes ours."""
        down = self.down
        if down is None or truth.edge != down.edge or truth.version <= down.version_seen:
            return
        if truth.base > len(self.tokens):
            return
        down.version_seen = truth.version
        down.due = True
        self._limit = truth.limit
        own = self.tokens.slice(truth.base, len(self.tokens))
        num_equal = common_prefix(own, truth.tokens)
        if num_equal < len(own):
            self._matcher.truncate(truth.base + num_equal)
        self._matcher.append(truth.tokens[num_equal:])

    def flush(self) -> list[Message]:
        """The answer to the newest Truth, if it has not been given yet."""
        down = self.down
        if down is None or not down.due:
            return []
        length = len(self.tokens)
        num_wanted = min(self._limit, self._end) - length
        tokens = self._matcher.continuation(num_wanted)
        down.due, down.sent = False, length + len(tokens)
        proposals = Proposals(
            edge=down.edge,
            version_seen=down.version_seen,
            ack=length,
            start=length,
            prefix_hash=self.tokens.hash_at(length),
            tokens=tokens,
            more=0 < num_wanted == len(tokens),
        )
        return [proposals]
