"""The stage: one model's part in a chain (DESIGN: section 3).

A stage turns its upstream's proposals into its own stream: what its model would generate alone
from the prefix its downstream has settled. Drafter, intermediate verifier and target are the
same class; the drafter has no upstream, the target's downstream is the client.

All models draw with the same noise, so verifying is comparing token ids: a forward over the
un-cached tail and the proposals yields the model's own token ("pick") at every position, and
the picks stand up to and including the first that differs from what was proposed.

Sans-IO: events come in as method calls, messages go out through :meth:`Stage.flush`.
"""

from array import array
from collections.abc import Sequence

from specrouter_dist.config import EdgeKnobs
from specrouter_dist.speculation.edges import DownstreamEdge, UpstreamEdge
from specrouter_dist.speculation.ending import Ending
from specrouter_dist.speculation.messages import (
    TOKEN_TYPECODE,
    EdgeId,
    Message,
    Proposals,
    TokenArray,
    Truth,
)
from specrouter_dist.speculation.steps import StageCounts, Step
from specrouter_dist.speculation.tokens import TokenBuffer, common_prefix


class Stage:
    """One session of one member.

    Args:
        tokens: the stream to begin with; its first ``prompt_tokens`` are the prompt.
        kv_len: how much of it is cached already.
        prompt_tokens: length of the prompt, at least 1.
        end: no position at or beyond it is wanted (prompt + max_tokens, or the context).
        ending: where the stream ends before that.
        chunk_tokens: longest piece of a prompt to feed at once.
        max_drafts: most tokens to draw in one step when there is no upstream.
    """

    def __init__(
        self,
        tokens: Sequence[int],
        *,
        prompt_tokens: int,
        end: int,
        ending: Ending,
        kv_len: int = 0,
        chunk_tokens: int = 128,
        max_drafts: int = 1,
    ) -> None:
        assert 1 <= prompt_tokens <= len(tokens) and kv_len < len(tokens)
        self.tokens = TokenBuffer(tokens)
        self.kv_len = kv_len
        self.settled = len(tokens)
        self.counts = StageCounts()
        self.own_counts = StageCounts()
        """Rounds whose proposals continued the own text; ``counts`` has all others."""
        self.up: UpstreamEdge | None = None
        self.down: DownstreamEdge | None = None
        self.block_tokens: int | None = None
        """Downstream waits for so many tokens: fewer are not sent while more can follow, and a
        step draws no further than to a block's end. None: each step's are sent."""
        self.max_drafts = max_drafts
        """Most tokens that a step draws while there is no upstream."""
        self._limit = end
        self._prompt_tokens = prompt_tokens
        self._end = end
        self._ending = ending
        self._chunk_tokens = chunk_tokens
        self._ended = False
        self._step: Step | None = None

    # -- state ---------------------------------------------------------------------------------

    @property
    def stopped(self) -> bool:
        """Whether the stream ends with an EOS or a stop."""
        return self._ended

    @property
    def finished(self) -> bool:
        """Whether nothing follows: the stream has stopped or is as long as it may be."""
        return self._ended or len(self.tokens) >= self._end

    @property
    def is_alone(self) -> bool:
        """Whether it writes by itself, its prompt fed."""
        return self.up is None and self.kv_len >= self._prompt_tokens

    @property
    def wait_ms(self) -> float | None:
        """How long the stage would wait for proposals; None when it waits for none."""
        if self.up is None or self._step or not self._waits():
            return None
        return self.up.knobs.patience_ms

    # -- steps ---------------------------------------------------------------------------------

    def next_step(self) -> Step | None:
        """StepStarted: the forward to make now, if there is one. One is in flight at a time."""
        if self._step or self._room() < 1:
            return None
        length = len(self.tokens)
        chunk_end = (self.kv_len // self._chunk_tokens + 1) * self._chunk_tokens
        if chunk_end < length:
            self._step = Step(self.kv_len, self.tokens.slice(self.kv_len, chunk_end), 0, 0, 0)
        elif self._waits():
            return None
        else:
            tail = self.tokens.slice(self.kv_len, length)
            proposals, is_own = self._take_proposals(self._room() - 1)
            num_drafts = self._drafts_wanted() - 1 if self.up is None else 0
            fed, num = tail + proposals, len(proposals)
            self._step = Step(self.kv_len, fed, num + 1, num, num_drafts, is_own)
        return self._step

    def on_step_done(self, picks: TokenArray) -> TokenArray:
        """StepDone: takes the picks and returns the tokens by which the stream grew.

        A Truth may have changed the present tokens since the step started: where what was fed
        differs from them, neither picks nor cache stand.
        """
        step, self._step = self._step, None
        assert step is not None
        fed = step.tokens + picks[step.num_picks - 1 : -1]
        new = array(TOKEN_TYPECODE)
        if self.kv_len == step.start:
            fed_end = step.start + self._num_equal(step.start, fed)
            if step.first_pick <= len(self.tokens) == fed_end:
                new = self._verify(step, fed, picks)
                self._grow(new)
            num_cached = step.start + self._num_equal(step.start, fed)
            self.kv_len = min(num_cached, len(self.tokens) - 1)
        return new

    def on_deadline(self) -> None:
        """The proposals that the stage waited for have not come in time."""
        if self.up is not None:
            self.up.overdue = True
            self.up.missed_deadlines += 1

    def _verify(self, step: Step, fed: TokenArray, picks: TokenArray) -> TokenArray:
        """Accepted proposals and one more: recovered after a mismatch, bonus after none."""
        length = len(self.tokens)
        own = picks[length - step.first_pick :]
        proposed = fed[length - step.start :]
        num_accepted = common_prefix(own, proposed)
        new = own[: min(num_accepted + 1, max(0, self._room()))]
        num_kept = self._ending.cut(new)
        if num_kept is not None:
            new = new[:num_kept]
            self._ended = True
        counts = self.own_counts if step.from_own_text else self.counts
        counts.add_round(
            step.num_proposals,
            min(num_accepted, len(new)),
            rejected=num_accepted < min(len(proposed), len(new)),
            drafted=max(0, len(new) - 1) if not step.num_proposals else 0,
        )
        return new

    def _grow(self, new: TokenArray) -> None:
        self.tokens.append(new)
        if self.up is not None and new:
            self.up.on_own_growth(new)

    def _num_equal(self, start: int, fed: TokenArray) -> int:
        return common_prefix(self.tokens.slice(start, start + len(fed)), fed)

    def _drafts_wanted(self) -> int:
        """Tokens to draw in this step, without an upstream."""
        wanted = min(self.max_drafts, self._room())
        if self.block_tokens is not None:
            num_ahead = len(self.tokens) - self.settled
            wanted = min(wanted, self.block_tokens - num_ahead % self.block_tokens)
        return wanted

    def _take_proposals(self, useful_tokens: int) -> tuple[TokenArray, bool]:
        """Proposals for this step, and whether they continue the own text."""
        if self.up is None:
            return array(TOKEN_TYPECODE), False
        self.up.overdue = False
        if matched := self.up.own_match(self.tokens, useful_tokens):
            return matched, True
        return self.up.queue.tokens[: min(self.up.knobs.burst, useful_tokens)], False

    def _waits(self) -> bool:
        """Whether proposals are worth waiting for. The first token never waits."""
        room = self._room()
        if self.up is None or room < 1 or self.kv_len < self._prompt_tokens:
            return False
        is_short = len(self.up.queue) < self.up.patience(room - 1)
        return is_short and not self.up.own_match(self.tokens, room - 1)

    def _room(self) -> int:
        """Tokens by which the stream may grow now."""
        return 0 if self._ended else min(self._limit, self._end) - len(self.tokens)

    # -- upstream: proposals come, Truths go ---------------------------------------------------

    def attach_upstream(self, edge: EdgeId, knobs: EdgeKnobs) -> Truth:
        """Begins to listen to ``edge``. What is returned tells the other side where we stand."""
        self.up = UpstreamEdge(edge, knobs)
        return self.up.truth(self.tokens, self._end)

    def retune_upstream(self, knobs: EdgeKnobs) -> None:
        """The same upstream under other knobs: queue and run-ahead stay."""
        assert self.up is not None
        self.up.retune(knobs, self.tokens, self._end)

    def detach_upstream(self) -> None:
        """Goes on alone: the upstream was let go or lost."""
        self.up = None

    def on_proposals(self, proposals: Proposals) -> None:
        """Proposals have come; those of another edge are from the past."""
        if self.up is not None and proposals.edge == self.up.edge:
            self.up.on_proposals(proposals, self.tokens)

    # -- downstream: Truths come, proposals go -------------------------------------------------

    def attach_downstream(self, truth: Truth, end: int) -> None:
        """Begins to draft for ``truth.edge``, whose whole stream ``truth`` is (base 0).

        ``end`` is where downstream's stream ends; ours ends no later than it was made for.
        """
        assert truth.base == 0
        self.down = DownstreamEdge(truth.edge, version_seen=truth.version - 1)
        self._end = min(self._end, end)
        self.on_truth(truth)
        self.down.due = True

    def detach_downstream(self) -> None:
        """Nobody listens: the stage rests with its cache until it is attached again."""
        self.down = None
        self._limit = 0

    def on_truth(self, truth: Truth) -> None:
        """Downstream's stream, as of now: follow it, and keep the run-ahead where it agrees.

        This is the versioned rollback: the newest Truth replaces all before it.
        """
        down = self.down
        if down is None or truth.edge != down.edge or truth.version <= down.version_seen:
            return
        if truth.base > len(self.tokens):
            return
        down.version_seen = truth.version
        self._limit = truth.limit
        num_equal = self._num_equal(truth.base, truth.tokens)
        split = truth.base + num_equal
        if num_equal < len(truth.tokens):
            if split < len(self.tokens):
                self._cut(split)
            self._grow(truth.tokens[num_equal:])
        self.settled = down.sent = truth.base + len(truth.tokens)
        if len(self.tokens) > self._prompt_tokens:
            self._ended = self._ending.cut(self.tokens.slice(len(self.tokens) - 1, self._end)) == 1
        down.due = self.finished

    def _cut(self, position: int) -> None:
        """Rollback: three integers, whatever the length (invariant 4)."""
        self.tokens.truncate(position)
        self.kv_len = min(self.kv_len, position)
        self._ended = False
        if self.up is not None:
            self.up.on_own_cut(position)

    # -- what goes out -------------------------------------------------------------------------

    def flush(self) -> list[Message]:
        """What is to be said after the events of a tick: at most one message per edge."""
        messages: list[Message] = []
        down, up = self.down, self.up
        if down is not None and (down.due or self._has_block(down)):
            messages.append(self._proposals(down))
        if up is not None and up.truth_due:
            up.version += 1
            up.truth_due = False
            messages.append(up.truth(self.tokens, self._end))
        return messages

    def _has_block(self, down: DownstreamEdge) -> bool:
        """Whether there is something new that downstream has use for now."""
        if len(self.tokens) <= down.sent:
            return False
        wanted = self.block_tokens or 0
        return len(self.tokens) - self.settled >= wanted or self._room() < 1

    def _proposals(self, down: DownstreamEdge) -> Proposals:
        start, down.sent, down.due = down.sent, len(self.tokens), False
        return Proposals(
            edge=down.edge,
            version_seen=down.version_seen,
            ack=self.settled,
            start=start,
            prefix_hash=self.tokens.hash_at(start),
            tokens=self.tokens.slice(start, len(self.tokens)),
            more=not self.finished,
        )
