"""The requests of a target's worker: admission, output, ending."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from specrouter_dist.config import Plan
from specrouter_dist.engine.interface import Picks
from specrouter_dist.errors import NoRoomError, RequestError, SpecRouterError
from specrouter_dist.links.address import Peer
from specrouter_dist.links.control import Cancel, Failed, FinishReason, Output, Submit
from specrouter_dist.routing.plans import Ladder, PlanTable, load_index
from specrouter_dist.speculation.ending import Ending
from specrouter_dist.speculation.messages import TokenArray
from specrouter_dist.speculation.steps import Step
from specrouter_dist.worker.chains import Chains
from specrouter_dist.worker.member import ModelHost, Opening
from specrouter_dist.worker.outbox import Outbox
from specrouter_dist.worker.session import Session

MAX_QUEUED = 1024
"""Requests waiting for room; one more is refused at once (HTTP 429)."""


@dataclass(eq=False, slots=True)
class _Request:
    peer: Peer | None
    submit: Submit
    plan: Plan | None = None
    """In force now; None before it is admitted."""
    ladder: Ladder | None = None
    """Where the plan is from; None when the request has brought its own."""
    num_accepted: int = 0
    num_rejected: int = 0
    """Proposals judged before this ladder's drafter was attached."""


class Requests:
    """What clients have asked of the target.

    Args:
        target: the member whose output is promised.
        make_ending: where a request's text ends.
    """

    def __init__(
        self,
        target: ModelHost,
        chains: Chains,
        outbox: Outbox,
        table: PlanTable,
        make_ending: Callable[[Submit], Ending],
        touch: Callable[[Session], None],
    ) -> None:
        self._target = target
        self._chains = chains
        self._outbox = outbox
        self._table = table
        self._make_ending = make_ending
        self._touch = touch
        self._queue: deque[_Request] = deque()
        self._load = 0
        """Index of ``LOADS``."""
        self._open: dict[int, tuple[_Request, Session]] = {}

    def set_plans(self, table: PlanTable) -> None:
        """Re-plans the running requests that left the choice to the router."""
        self._table = table
        for request, session in self._open.values():
            if request.ladder is not None:
                self._climb(request, session)

    def on_submit(self, peer: Peer | None, submit: Submit) -> None:
        """Admits the request, queues it, or refuses it."""
        request = _Request(peer, submit)
        try:
            self._check(submit)
            if len(self._queue) >= MAX_QUEUED:
                raise NoRoomError(f"{MAX_QUEUED} requests are waiting already")
        except SpecRouterError as error:
            self._fail(request, error)
            return
        self._queue.append(request)
        self._admit()

    def on_cancel(self, message: Cancel) -> None:
        """Frees every level of the request."""
        self._queue = deque(r for r in self._queue if r.submit.request != message.request)
        opened = self._open.get(message.request)
        if opened is not None:
            self._finish(*opened, "cancelled")

    def on_peer_lost(self, peer: Peer) -> None:
        """Nobody listens to that client's requests any more."""
        for request in [r for r in self._queue if r.peer == peer]:
            self._queue.remove(request)
        for request, session in [o for o in self._open.values() if o[0].peer == peer]:
            self._close(request, session)

    def on_grown(self, session: Session, step: Step, new: TokenArray, picks: Picks) -> None:
        """The target's stream grew: one message per round goes to the client."""
        request, _ = self._open[session.id]
        stage = session.model_stage
        if not new:
            return
        start = len(stage.tokens) - len(new)
        first_pick = step.start + len(step.tokens) - step.num_picks + 1
        logprobs = picks.logprobs[start - first_pick :][: len(new)] if picks.logprobs else ()
        reason: FinishReason | None = None
        if stage.finished:
            reason = "stop" if stage.stopped else "length"
        self._outbox.put(
            request.peer,
            Output(
                request=session.id,
                start=start - session.prompt_tokens,
                tokens=new,
                finish_reason=reason,
                logprobs=logprobs,
                stats=_stats(session) if reason else None,
            ),
        )
        if reason:
            self._close(request, session)
        elif request.ladder is not None:
            self._reconsider(request, session)

    def _reconsider(self, request: _Request, session: Session) -> None:
        """The load may have changed; and a request that agrees more or less than others gets the
        plan that suits it."""
        ladder = self._table.ladder(greedy=session.sampling.greedy, load=self._load)
        if ladder is not request.ladder:
            self._climb(request, session)
            return
        assert request.plan is not None
        counts = session.model_stage.counts
        plan = ladder.choose(
            request.plan,
            counts.accepted - request.num_accepted,
            counts.truncations - request.num_rejected,
        )
        if plan is not request.plan:
            self._follow(request, session, plan)

    def _climb(self, request: _Request, session: Session) -> None:
        """The request begins on the ladder of the present load, with what it has agreed on so
        far where the drafter stays."""
        ladder = self._table.ladder(greedy=session.sampling.greedy, load=self._load)
        before, request.ladder = request.ladder, ladder
        counts = session.model_stage.counts
        if before is None or before.plan.chain[-2:] != ladder.plan.chain[-2:]:
            request.num_accepted, request.num_rejected = counts.accepted, counts.truncations
        plan = ladder.choose(
            ladder.plan,
            counts.accepted - request.num_accepted,
            counts.truncations - request.num_rejected,
        )
        self._follow(request, session, plan)

    def _follow(self, request: _Request, session: Session, plan: Plan) -> None:
        request.plan = plan
        self._chains.want(session, plan)

    def _check(self, submit: Submit) -> None:
        info = self._target.engine.info
        num_tokens = len(submit.prompt) + len(submit.output)
        if not submit.prompt:
            raise RequestError("prompt: at least one token is needed", field="prompt")
        if num_tokens >= info.context_tokens:
            raise RequestError(
                f"prompt: {num_tokens} tokens do not fit the context of {info.context_tokens} "
                "tokens with one token to generate",
                field="prompt",
            )
        if max(submit.prompt) >= info.vocab_size:
            raise RequestError(
                f"prompt: token ids lie in [0, {info.vocab_size}), got {max(submit.prompt)}",
                field="prompt",
            )
        if submit.request in self._open:
            raise RequestError(f"request {submit.request} is running already", field="request")

    def _admit(self) -> None:
        """Opens the oldest queued requests for which there is room."""
        while self._queue:
            request = self._queue[0]
            try:
                session = self._open_session(request.submit)
            except SpecRouterError as error:
                if isinstance(error, NoRoomError) and self._open:
                    return
                # There will never be room, or the engine refuses the request itself.
                self._queue.popleft()
                self._fail(request, error)
                continue
            self._queue.popleft()
            self._open[session.id] = (request, session)
            self._load = load_index(len(self._open), self._load)
            if request.submit.plan is None:
                self._climb(request, session)
            else:
                self._follow(request, session, request.submit.plan)
            self._touch(session)

    def _open_session(self, submit: Submit) -> Session:
        prompt_tokens = len(submit.prompt)
        context_tokens = self._target.engine.info.context_tokens
        end = min(prompt_tokens + submit.sampling.max_tokens, context_tokens)
        opening = Opening(submit.prompt + submit.output, prompt_tokens, end, submit.sampling)
        stage, slot = self._target.open(opening, self._make_ending(submit))
        session = Session(
            id=submit.request,
            member=self._target,
            stage=stage,
            slot=slot,
            sampling=submit.sampling,
            prompt_tokens=prompt_tokens,
            end=end,
        )
        self._chains.sessions[session] = None
        return session

    def _finish(self, request: _Request, session: Session, reason: FinishReason) -> None:
        stage = session.model_stage
        start = len(stage.tokens) - session.prompt_tokens
        empty = stage.tokens.slice(0, 0)
        self._outbox.put(
            request.peer, Output(session.id, start, empty, reason, (), _stats(session))
        )
        self._close(request, session)

    def _close(self, request: _Request, session: Session) -> None:
        del self._open[request.submit.request]
        self._load = load_index(len(self._open), self._load)
        self._chains.close(session)
        self._admit()

    def _fail(self, request: _Request, error: SpecRouterError) -> None:
        message = Failed(request.submit.request, type(error).__name__, str(error))
        self._outbox.put(request.peer, message)


def _stats(session: Session) -> dict[str, object]:
    """The request's counters, as plain values."""
    stage = session.model_stage
    return {
        "chain": (*session.wanted, session.member.name),
        "attached": (*session.wanted[: session.num_attached], session.member.name),
        "device_us": session.total_device_us(),
        "histogram": tuple(stage.counts.accepted_histogram),
        "num_rounds": stage.counts.rounds,
        "levels": tuple(
            (lv.draft, lv.verifier, lv.proposed, lv.accepted, lv.rounds, lv.truncations)
            for lv in session.levels()
        ),
    }
