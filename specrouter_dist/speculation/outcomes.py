"""Outcome drafting: while a block is being verified, its drafter prepares what comes after it.

Of a pending block the likely *outcomes* are that all of it stands, and that its first ``i`` tokens
stand and the drafter's runner-up comes after them. For the likeliest few the next block is
drafted, each in a fork of the session's cache. When the Truth comes and is one of them, the answer
is there without a forward (SSD, arXiv 2603.03251, takes outcomes from the draft's law; SpecBranch,
arXiv 2506.01979, branches at the doubtful token). Here all members draw with the same noise, so
what stands instead is most often the next best under the drafter's own perturbed scores: one
runner-up per position is enough.

Nobody else knows of it. A prepared answer is what the drafter would draw then; the forks are
scratch space, held from the choice of the outcomes until the session's next step.
"""

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import reduce
from heapq import nlargest

from specrouter_dist.errors import NoRoomError
from specrouter_dist.speculation.forks import Draw, Feed, Forks
from specrouter_dist.speculation.messages import TOKEN_TYPECODE, TokenArray
from specrouter_dist.speculation.odds import Odds
from specrouter_dist.speculation.stage import Stage
from specrouter_dist.speculation.tokens import common_prefix, extend_hash

_LEAST_CHANCE = 0.05
"""Of an outcome worth preparing."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a block for whose outcomes answers were prepared."""

    was_rejected: bool
    """One of its tokens did not stand."""
    num_ready: int
    """Tokens of the answer that were there at once."""


@dataclass(frozen=True, slots=True)
class _Pending:
    """A block that downstream has not judged."""

    start: int
    prefix_hash: int
    """Of the stream before ``start``."""
    length: int
    """Of the drafter's whole stream."""
    stream_hash: int
    tokens: TokenArray
    """The block, and the next token of the stream if there is one."""
    num_block_tokens: int
    draws: tuple[Draw, ...]


@dataclass(slots=True)
class _Lane:
    """One outcome, and the continuation that is being drafted."""

    fork: int
    length: int
    """Of the stream in this outcome."""
    unfed: int
    """Its last token, and then the last one drafted."""
    num_wanted: int
    prefix_hash: int
    """Of the stream."""
    drafted: list[Draw] = field(default_factory=list)


class Outcomes:
    """The prepared answers of one drafting session.

    Args:
        forks: of the session's cache.
        odds: how likely its tokens are to stand; learns from this session's blocks.
        stop_ids: nothing follows one of them.
        end: no position at or beyond it is fed.
    """

    def __init__(self, forks: Forks, odds: Odds, *, stop_ids: frozenset[int], end: int) -> None:
        self._forks = forks
        self._odds = odds
        self._stop_ids = stop_ids
        self._end = end
        self._draws: dict[int, Draw] = {}
        """By position; of all that is not settled."""
        self._lanes: list[_Lane] = []
        self._pending: _Pending | None = None

    def note(self, stage: Stage, draws: Sequence[Draw]) -> None:
        """The stream grew by ``draws``."""
        self._draws.update(enumerate(draws, len(stage.tokens) - len(draws)))

    def advance(self, stage: Stage, num_outcomes: int) -> bool:
        """One forward for the session, which waits for a Truth, if there is something to prepare;
        whether there was one."""
        if not self._is_current(stage):
            self.release()
            if stage.up or (pending := self._look(stage)) is None:
                return False
            if self._catch_up(stage):
                return True
            self._pending = pending
            self._open_lanes(stage, num_outcomes)
        drafting = [lane for lane in self._lanes if self._goes_on(lane)]
        if drafting:
            self._draft(drafting)
        return bool(drafting)

    def answer(self, stage: Stage) -> int:
        """Extends the stream by what has been drafted for it, if it is one of the outcomes; returns
        by how many tokens.

        The session itself has not been fed them, so the stage's cache ends where it did; it
        catches up later.
        """
        prepared = self._prepared(stage)
        step = stage.next_step() if prepared else None
        if step is None:
            return 0
        assert prepared is not None
        tokens = array(TOKEN_TYPECODE, (draw.token for draw in prepared[: step.num_drafts + 1]))
        new = stage.on_step_done(tokens)
        stage.kv_len = min(stage.kv_len, step.start)
        self.note(stage, prepared[: len(new)])
        return len(new)

    def finish(self, stage: Stage, num_ready: int) -> Verdict | None:
        """The stage goes on, by a step or with ``num_ready`` tokens of an answer. The forks are
        closed, for the session itself is fed next.

        Returns:
            what became of the pending block, if downstream has judged it.
        """
        verdict = self._judge(stage, num_ready)
        self.release()
        self._draws = {p: draw for p, draw in self._draws.items() if p >= stage.settled}
        return verdict

    def release(self) -> None:
        """Frees what is held and forgets what was prepared."""
        for lane in self._lanes:
            self._forks.close(lane.fork)
        self._lanes, self._pending = [], None

    def _is_current(self, stage: Stage) -> bool:
        """Whether the pending block is still what the stage waits for."""
        pending, length = self._pending, len(stage.tokens)
        return (
            pending is not None
            and (pending.length, pending.start) == (length, stage.settled)
            and pending.stream_hash == stage.tokens.hash_at(length)
        )

    def _catch_up(self, stage: Stage) -> bool:
        """Feeds the session an answer that was sent without it; whether one was."""
        start, end = stage.kv_len, len(stage.tokens) - 1
        if start < end:
            self._forks.feed(start, stage.tokens.slice(start, end))
            stage.kv_len = end
        return start < end

    def _look(self, stage: Stage) -> _Pending | None:
        """The block that downstream judges next, if the stage has drawn it."""
        start, length, block_tokens = stage.settled, len(stage.tokens), stage.block_tokens
        if not block_tokens or start >= length:
            return None
        num_block_tokens = min(block_tokens, length - start)
        stop = min(start + block_tokens + 1, length)
        draws = tuple(d for d in map(self._draws.get, range(start, stop)) if d)
        if len(draws) < stop - start:
            # Parts of it are from a time before outcomes were asked for.
            return None
        return _Pending(
            start=start,
            prefix_hash=stage.tokens.hash_at(start),
            length=length,
            stream_hash=stage.tokens.hash_at(length),
            tokens=stage.tokens.slice(start, stop),
            num_block_tokens=num_block_tokens,
            draws=draws,
        )

    def _outcomes(self, pending: _Pending, end_token: int) -> Iterator[tuple[float, int, int, int]]:
        """Of every outcome: its chance, the position and the token up to which it says what the
        stream is, and how many tokens are wanted behind."""
        reached, position = 1.0, pending.start
        for position, draw in enumerate(pending.draws, pending.start):
            chance = reached * self._odds.replaced(draw.gap)
            if draw.runner_up is not None:
                yield chance, position, draw.runner_up, pending.num_block_tokens
            reached *= self._odds.stands(draw.gap)
        if position == pending.length - 1:
            # The token after the block is still to be drawn.
            yield reached, position, end_token, pending.num_block_tokens + 1

    def _open_lanes(self, stage: Stage, num_outcomes: int) -> None:
        """Forks the cache for the likeliest outcomes that something can follow."""
        assert self._pending is not None
        end_token = stage.tokens[len(stage.tokens) - 1]
        outcomes = nlargest(num_outcomes, self._outcomes(self._pending, end_token))
        for chance, position, token, num_wanted in outcomes:
            length = position + 1
            if chance < _LEAST_CHANCE or token in self._stop_ids or length >= self._end:
                continue
            try:
                fork = self._forks.fork(position, min(length + num_wanted, self._end))
            except NoRoomError:
                # Others need the room more than guesses do.
                return
            prefix_hash = extend_hash(stage.tokens.hash_at(position), token)
            self._lanes.append(_Lane(fork, length, token, num_wanted, prefix_hash))

    def _goes_on(self, lane: _Lane) -> bool:
        num_drafted = len(lane.drafted)
        return (
            num_drafted < lane.num_wanted
            and lane.length + num_drafted < self._end
            and not (num_drafted and lane.unfed in self._stop_ids)
        )

    def _draft(self, lanes: list[_Lane]) -> None:
        """One more token of each, in one forward: mail waits no longer."""
        feeds = [Feed(lane.fork, lane.length + len(lane.drafted) - 1, lane.unfed) for lane in lanes]
        for lane, draw in zip(lanes, self._forks.draw(feeds), strict=True):
            lane.unfed = draw.token
            lane.drafted.append(draw)

    def _prepared(self, stage: Stage) -> list[Draw] | None:
        """What has been drafted for the stream as it is now."""
        length = len(stage.tokens)
        for lane in self._lanes:
            drafted, offset = lane.drafted, length - lane.length
            if not 0 <= offset < len(drafted):
                continue
            tokens = (draw.token for draw in drafted[:offset])
            if reduce(extend_hash, tokens, lane.prefix_hash) == stage.tokens.hash_at(length):
                return drafted[offset:]
        return None

    def _judge(self, stage: Stage, num_ready: int) -> Verdict | None:
        """Learns from what downstream has settled of the pending block."""
        pending = self._pending
        if pending is None or not pending.start < stage.settled <= len(stage.tokens):
            return None
        if stage.tokens.hash_at(pending.start) != pending.prefix_hash:
            return None
        settled = stage.tokens.slice(pending.start, stage.settled)
        num_equal = common_prefix(pending.tokens, settled)
        for draw in pending.draws[:num_equal]:
            self._odds.learn(draw.gap, lost=False, replaced=False)
        if num_equal < min(len(settled), len(pending.tokens)):
            lost = pending.draws[num_equal]
            replaced = settled[num_equal] == lost.runner_up
            self._odds.learn(lost.gap, lost=True, replaced=replaced)
        elif num_equal < pending.num_block_tokens:
            return None
        return Verdict(num_equal < pending.num_block_tokens, num_ready)
