"""The requests of a target's worker: admission, output, ending."""

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from specrouter_dist.engine.interface import Picks
from specrouter_dist.errors import NoRoomError, RequestError, SpecRouterError, UnavailableError
from specrouter_dist.links.address import Peer
from specrouter_dist.links.control import Cancel, Failed, FinishReason, Output, Submit
from specrouter_dist.routing.climbing import Climb
from specrouter_dist.routing.observations import Observations
from specrouter_dist.routing.plans import Ladder, PlanTable, load_index
from specrouter_dist.routing.switching import Progress
from specrouter_dist.routing.traffic import Traffic
from specrouter_dist.speculation.ending import Ending
from specrouter_dist.speculation.messages import TokenArray
from specrouter_dist.speculation.steps import Step
from specrouter_dist.worker.chains import Chains
from specrouter_dist.worker.checks import check_submit
from specrouter_dist.worker.member import Opening
from specrouter_dist.worker.model_host import ModelHost
from specrouter_dist.worker.outbox import Outbox
from specrouter_dist.worker.session import Session
from specrouter_dist.worker.sharing import Sharing
from specrouter_dist.worker.stats import stats_of
from specrouter_dist.worker.telling import Times, tell_end, tell_failure

MAX_QUEUED = 1024
"""Requests waiting for room; one more is refused at once (HTTP 429)."""


@dataclass(eq=False, slots=True)
class _Request:
    peer: Peer | None
    submit: Submit
    climb: Climb
    times: Times


class Requests:
    """What clients have asked of the target.

    Args:
        target: the member whose output is promised.
        tiered: where lossy requests go, by the slim member before the target.
        make_ending: where a request's text ends.
        observations: where measurements go now.
        make_room: gives back what the target holds for nobody's request; whether there was any.
        clock: seconds.
    """

    def __init__(
        self,
        target: ModelHost,
        tiered: Mapping[str, ModelHost],
        chains: Chains,
        outbox: Outbox,
        table: PlanTable,
        make_ending: Callable[[Submit], Ending],
        touch: Callable[[Session], None],
        observations: Callable[[], Observations],
        make_room: Callable[[], bool],
        clock: Callable[[], float],
    ) -> None:
        self._target = target
        self._tiered = tiered
        self._chains = chains
        self._outbox = outbox
        self._table = table
        self._make_ending = make_ending
        self._touch = touch
        self._observations = observations
        self._make_room = make_room
        self._clock = clock
        self._sharing = Sharing(target.name, chains, observations, clock)
        self._queue: deque[_Request] = deque()
        self._load = 0
        """Index of ``LOADS``."""
        self._open: dict[int, tuple[_Request, Session]] = {}
        self.num_tokens = 0
        """Put out so far."""

    @property
    def num_running(self) -> int:
        """Requests with a session."""
        return len(self._open)

    @property
    def num_waiting(self) -> int:
        """Requests that wait for room."""
        return len(self._queue)

    def set_plans(self, table: PlanTable) -> None:
        """Re-plans the running requests that left the choice to the router."""
        self._table = table
        for request, session in self._open.values():
            if request.submit.plan is None:
                self._board(request, session)

    def on_submit(self, peer: Peer | None, submit: Submit) -> None:
        """Admits the request, queues it, or refuses it."""
        traffic = Traffic.of(submit.sampling, submit.task)
        request = _Request(peer, submit, Climb(traffic, self._clock), Times(self._clock()))
        try:
            check_submit(submit, self._target.engine.info, self._tiered)
            if submit.request in self._open:
                raise RequestError(f"request {submit.request} is running already", field="request")
            if len(self._queue) >= MAX_QUEUED:
                raise NoRoomError(f"{MAX_QUEUED} requests are waiting already")
        except SpecRouterError as error:
            self._fail(request, error)
            return
        self._queue.append(request)
        self._admit()

    def on_cancel(self, message: Cancel) -> None:
        """Frees every level of the request, and tells its client that it is over."""
        for request in [r for r in self._queue if r.submit.request == message.request]:
            self._queue.remove(request)
            # Its client would remember it for ever, and submit it again to the next target.
            self._fail(request, UnavailableError("it was cancelled while it waited for room"))
        opened = self._open.get(message.request)
        if opened is not None:
            self._finish(*opened, "cancelled")

    def on_peer_lost(self, peer: Peer) -> None:
        """Nobody listens to that client's requests any more."""
        for request in [r for r in self._queue if r.peer == peer]:
            self._queue.remove(request)
        for request, session in [o for o in self._open.values() if o[0].peer == peer]:
            self._close(request, session, "client lost")

    def on_grown(self, session: Session, step: Step, new: TokenArray, picks: Picks) -> None:
        """The target's stream grew: one message per round goes to the client, and one per piece of
        a prompt whose log-probabilities are wanted."""
        request, _ = self._open[session.id]
        stage = session.model_stage
        if not new and not picks.follower_logprobs:
            return
        self.num_tokens += len(new)
        if new and request.times.first_s is None:
            request.times.first_s = self._clock()
            session.prefill_us = request.times.prefill_us
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
                stats=stats_of(session) if reason else None,
                prompt_logprobs=picks.follower_logprobs,
            ),
        )
        if not new:
            return
        request.climb.on_round(stage.counts, len(new))
        if reason:
            self._sharing.share(request.submit, session)
            self._close(request, session, reason)
        elif request.submit.plan is None:
            # The load may have changed, or the request agree more or less than others.
            self._board(request, session)

    def _board(self, request: _Request, session: Session) -> None:
        """The request goes on with the plan that is best for it now."""
        own = request.submit.plan
        ladder = Ladder.only(own) if own else self._table.of(session.traffic)[self._load]
        if request.climb.is_settled(ladder, self._load):
            return
        before = request.climb.plan
        num_tokens = len(session.stage.tokens)
        progress = Progress(num_tokens, session.end - num_tokens)
        seen = self._seen(request)
        plan = request.climb.board(ladder, self._load, progress, seen)
        if plan is not before:
            session.plans.note(plan, session.num_rounds)
            self._chains.upstreams.want(session, plan)

    def _seen(self, request: _Request) -> Observations:
        """Where what the request shows is noted. How fast a lossy one is says nothing of others."""
        return self._observations() if request.submit.lossy is None else Observations()

    def _admit(self) -> None:
        """Opens the oldest queued requests for which there is room."""
        while self._queue:
            request = self._queue[0]
            try:
                session = self._open_session(request)
            except SpecRouterError as error:
                if isinstance(error, NoRoomError) and self._make_room():
                    continue
                if isinstance(error, NoRoomError) and self._open:
                    return
                # There will never be room, or the engine refuses the request itself.
                self._queue.popleft()
                self._fail(request, error)
                continue
            self._queue.popleft()
            self._open[session.id] = (request, session)
            self._load = load_index(len(self._open), self._load)
            self._board(request, session)
            self._touch(session)

    def _open_session(self, request: _Request) -> Session:
        submit = request.submit
        prompt_tokens = len(submit.prompt)
        context_tokens = self._target.engine.info.context_tokens
        end = min(prompt_tokens + submit.sampling.max_tokens, context_tokens)
        sampling = submit.sampling
        if submit.output:
            # Its client has them already.
            sampling = sampling.model_copy(update={"prompt_logprobs": None})
        tokens = submit.prompt + submit.output
        opening = Opening(tokens, prompt_tokens, end, sampling, lossy=submit.lossy)
        host = self._host_of(submit)
        stage, slot = host.open(opening, self._make_ending(submit))
        session = Session(
            id=submit.request,
            member=host,
            stage=stage,
            slot=slot,
            sampling=sampling,
            prompt_tokens=prompt_tokens,
            end=end,
            traffic=request.climb.traffic,
            trace=submit.trace,
        )
        request.times.begun_s = self._clock()
        session.queued_us = int((request.times.begun_s - request.times.arrived_s) * 1e6)
        self._chains.sessions[session] = None
        return session

    def _host_of(self, submit: Submit) -> ModelHost:
        if submit.lossy is None:
            return self._target
        assert submit.plan is not None
        return self._tiered[submit.plan.chain[-2]]

    def _finish(self, request: _Request, session: Session, reason: FinishReason) -> None:
        stage = session.model_stage
        start = len(stage.tokens) - session.prompt_tokens
        empty = stage.tokens.slice(0, 0)
        self._outbox.put(
            request.peer, Output(session.id, start, empty, reason, (), stats_of(session))
        )
        self._close(request, session, reason)

    def _close(self, request: _Request, session: Session, reason: str) -> None:
        tell_end(request.submit, session, reason, request.times, self._clock())
        request.climb.leave(self._seen(request))
        del self._open[request.submit.request]
        self._load = load_index(len(self._open), self._load)
        self._chains.close(session)
        self._admit()

    def _fail(self, request: _Request, error: SpecRouterError) -> None:
        tell_failure(request.submit, error)
        message = Failed(request.submit.request, type(error).__name__, str(error))
        self._outbox.put(request.peer, message)
