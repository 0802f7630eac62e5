"""Watches a network and raises at the first invariant of DESIGN section 4 that does not hold."""

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from specrouter_dist.speculation.matching import MAX_CANDIDATES
from specrouter_dist.speculation.messages import (
    TOKEN_TYPECODE,
    EdgeId,
    Message,
    Proposals,
    TokenArray,
    Truth,
)
from specrouter_dist.speculation.steps import Step
from specrouter_dist.speculation.tokens import common_prefix
from tests.unit.speculation.nodes import Node
from tests.unit.speculation.scenarios import LOOKUP_MATCH, MemberSpec, Scenario, alone


class Violation(AssertionError):
    """An invariant does not hold."""

    def __init__(self, invariant: int, rule: str) -> None:
        super().__init__(f"invariant {invariant}: {rule}")
        self.invariant = invariant


def require(invariant: int, holds: bool, rule: str) -> None:
    if not holds:
        raise Violation(invariant, rule)


@dataclass
class Watch:
    """What the oracle has seen of one node."""

    granted: int = 0
    """Limit of the newest Truth that the node has got."""
    given: int = 0
    """Limit of the newest Truth that the node has sent."""
    queue: TokenArray = field(default_factory=lambda: array(TOKEN_TYPECODE))
    """Before the frame that is being delivered."""
    stream: TokenArray = field(default_factory=lambda: array(TOKEN_TYPECODE))
    """Before the Truth that is being delivered, as are the next two."""
    settled: int = 0
    version_seen: int = 0
    candidate: TokenArray = field(default_factory=lambda: array(TOKEN_TYPECODE))
    """Stream of the upstream whose frame was queued last."""
    answered: int = 0
    """Newest version that the upstream had seen when it sent the frame that came last."""
    queue_was_empty: bool = True
    """When that frame came."""
    is_answered: bool = False
    """Upstream's last frame was an answer to the stream as it is now."""
    waited: bool = False
    """The step that is being begun has all the proposals it could wait for."""
    synced: EdgeId | None = None
    """Edge to the upstream over which a Truth has arrived that was sent after the last fault."""
    num_checked_rounds: int = 0


class Oracle:
    """Invariants 1, 2, 3, 5 and 8; 4 and 7 have tests of their own."""

    def __init__(self, scenario: Scenario) -> None:
        self._scenario = scenario
        self._watches = [Watch() for _ in scenario.members]
        self._watches[0].granted = scenario.end
        self._healed_length: int | None = None
        self._fresh: set[tuple[EdgeId, int]] = set()
        """Truths sent after the last fault."""
        self._picks: dict[tuple[int, int, int, int], int] = {}

    @property
    def num_checked_rounds(self) -> int:
        """Rounds after the last fault whose proposals were compared with a fault-free run's."""
        return sum(watch.num_checked_rounds for watch in self._watches)

    # -- events --------------------------------------------------------------------------------

    def on_healed(self, nodes: Iterable[Node], in_air: Iterable[TokenArray]) -> None:
        """No fault happens from here on. What was drawn until now may be anybody's."""
        streams = [node.stream + self._queue(node) for node in nodes if node.stage]
        self._healed_length = max(map(len, [*streams, *in_air]))

    def before_step(self, node: Node) -> None:
        """The node is about to be asked for a step."""
        stage = node.model
        assert stage is not None
        up = stage.up
        watch = self._watches[node.index]
        watch.is_answered = bool(up and watch.answered == up.version and not up.truth_due)
        rests = up is not None and bool(up.queue.tokens) and not up.more
        watch.waited = (
            up is not None
            and (watch.is_answered or not rests)
            and not up.overdue
            and not up.missed_deadlines
            and up.knobs.patience == up.knobs.window
            and stage.kv_len >= len(self._scenario.prompt)
        )

    def on_step(self, node: Node, step: Step, nodes: Sequence[Node]) -> None:
        """The node begins ``step``."""
        watch, stream = self._watches[node.index], node.stream
        fed_end = step.start + len(step.tokens) + step.num_drafts
        room_end = min(watch.granted, self._end(node))
        require(5, fed_end < room_end, "a position at or beyond limit or context is fed")
        require(5, step.num_proposals <= self._burst(node), "more proposals than burst are fed")
        if step.num_picks and node.model and node.model.up and not step.from_own_text:
            in_sync = watch.synced == node.model.up.edge
            healed = self._healed_length is not None and len(stream) >= self._healed_length
            if in_sync and healed:
                upstream = nodes[node.wanted[-1]]
                self._compare_with_fault_free(node, upstream, step, room_end)

    def on_growth(self, node: Node, new: TokenArray) -> None:
        """The node's step is done and its stream grew by ``new``."""
        stream = node.stream
        start = len(stream) - len(new)
        for position in range(start, len(stream)):
            pick = self._pick(node.spec, stream[:position])
            require(1, stream[position] == pick, "a stage's own token is not its model's")
        limit = min(self._watches[node.index].granted, self._end(node))
        require(5, not new or len(stream) <= limit, "a stage generates beyond its limit")
        self.check(node)

    def on_sent(self, node: Node, message: Message) -> None:
        """The node sends ``message``."""
        if isinstance(message, Truth):
            self._watches[node.index].given = message.limit
            if self._healed_length is not None:
                self._fresh.add((message.edge, message.version))

    def on_deadline(self, node: Node) -> None:
        """Nothing is under way, and the node's deadline fires."""
        assert node.model is not None and node.model.up is not None
        in_sync = self._watches[node.index].synced == node.model.up.edge
        require(8, not in_sync, "the wait for an upstream in sync is in vain")

    def before_truth(self, node: Node) -> None:
        """A Truth is about to arrive."""
        assert node.stage is not None
        watch, down = self._watches[node.index], node.stage.down
        watch.stream, watch.settled = node.stream, node.stage.settled
        watch.version_seen = down.version_seen if down else 0

    def on_attach(self, node: Node) -> None:
        """The node is about to be attached: its edge is new."""
        self._watches[node.index].version_seen = 0

    def on_truth(self, node: Node, truth: Truth, stream: TokenArray, sender: Node) -> None:
        """The node got ``truth``, sent when its sender's stream was ``stream``."""
        assert node.stage is not None
        watch, down = self._watches[node.index], node.stage.down
        if down is None or down.edge != truth.edge or truth.version <= watch.version_seen:
            unchanged = (node.stream, node.stage.settled) == (watch.stream, watch.settled)
            require(8, unchanged, "a Truth from the past is followed")
        else:
            settled = node.stage.settled
            require(8, down.version_seen == truth.version, "a newer Truth is not followed")
            require(8, settled == len(stream), "the settled length is not downstream's")
            require(8, node.stream[:settled] == stream, "the settled prefix is not downstream's")
            watch.granted = truth.limit
            if (truth.edge, truth.version) in self._fresh:
                self._watches[sender.index].synced = truth.edge
        self.check(node)

    def before_proposals(self, node: Node) -> None:
        """A Proposals frame is about to arrive."""
        self._watches[node.index].queue = self._queue(node)

    def on_proposals(self, node: Node, proposals: Proposals, stream: TokenArray) -> None:
        """It arrived; its sender's stream was ``stream``."""
        watch = self._watches[node.index]
        watch.answered = proposals.version_seen
        watch.queue_was_empty = not watch.queue
        if self._queue(node) != watch.queue:
            watch.candidate = stream
        self.check(node)

    def on_gone(self, node: Node) -> None:
        """The node is parked or has restarted."""
        self._watches[node.index].granted = 0

    # -- state ---------------------------------------------------------------------------------

    def check(self, node: Node) -> None:
        """The invariants that hold at every moment."""
        stage, watch, stream = node.model, self._watches[node.index], node.stream
        if stage is None:
            return
        if node.index == 0:
            truth = array(TOKEN_TYPECODE, self._scenario.truth[: len(stream)])
            require(1, stream == truth, "the output is not the target's alone")
        cached = node.engine.cached(node.slot)[: stage.kv_len]
        require(2, 0 <= stage.kv_len < len(stream), "the last token has been fed")
        require(2, cached == stream[: stage.kv_len].tolist(), "the cache is of other tokens")
        if stage.up is not None and stage.up.queue.tokens:
            candidate = stream + stage.up.queue.tokens
            fits = candidate == watch.candidate[: len(candidate)]
            require(3, fits, "the queue does not extend the own tokens")
            require(5, len(candidate) <= watch.given, "the queue goes beyond the limit")

    def _compare_with_fault_free(
        self, node: Node, upstream: Node, step: Step, room_end: int
    ) -> None:
        watch, stream = self._watches[node.index], node.stream
        is_whole_answer = watch.waited and watch.is_answered and watch.queue_was_empty
        if upstream.spec.is_lookup and not is_whole_answer:
            return  # A lookup member's proposals depend on when and for how many it was asked.
        knobs = node.knobs[-1]
        num_wanted = min(knobs.burst, room_end - len(stream) - 1)
        expected = self._fault_free(upstream.spec, stream, num_wanted, watch.given)
        got = step.tokens[len(step.tokens) - step.num_proposals :]
        same = common_prefix(expected, got)
        require(8, same == len(got), "proposals are not those of a fault-free run")
        if watch.waited:
            require(8, same == len(expected), "fewer proposals than in a fault-free run")
        watch.num_checked_rounds += 1

    def _fault_free(
        self, spec: MemberSpec, stream: TokenArray, num_wanted: int, limit: int
    ) -> TokenArray:
        """What an undisturbed upstream would propose after ``stream``."""
        num = min(num_wanted, min(self._scenario.end, spec.context_tokens) - len(stream))
        if num < 1:
            return array(TOKEN_TYPECODE)
        if spec.is_lookup:
            return longest_match(stream, limit - len(stream))[:num]
        return alone(spec, self._scenario, stream, num)

    def _pick(self, spec: MemberSpec, prefix: TokenArray) -> int:
        """The toy's own token after ``prefix``: its law looks at the last two tokens."""
        key = (spec.seed, len(prefix), prefix[-1], prefix[-2] if len(prefix) > 1 else -1)
        if key not in self._picks:
            self._picks[key] = alone(spec, self._scenario, prefix, 1)[0]
        return self._picks[key]

    def _end(self, node: Node) -> int:
        return min(self._scenario.end, node.spec.context_tokens)

    def _burst(self, node: Node) -> int:
        return node.knobs[-1].burst if node.knobs else 0

    def _queue(self, node: Node) -> TokenArray:
        up = node.model.up if node.model else None
        return up.queue.tokens[:] if up else array(TOKEN_TYPECODE)


def longest_match(
    stream: Sequence[int], num_wanted: int, matches: tuple[int, int] = LOOKUP_MATCH
) -> TokenArray:
    """What the lookup member is to propose, found by trying every place and length."""
    shortest, longest = matches
    tokens, length = list(stream), len(stream)
    suffix = tokens[-shortest:]
    places = [p for p in range(shortest, length) if tokens[p - shortest : p] == suffix]
    best = (shortest, 0, 0)
    for place in places[-MAX_CANDIDATES:]:
        for match in range(shortest, min(longest, place) + 1):
            if tokens[place - match : place] == tokens[length - match :]:
                best = max(best, (match, min(num_wanted, length - place), place))
    return array(TOKEN_TYPECODE, tokens[best[2] : best[2] + best[1]])
