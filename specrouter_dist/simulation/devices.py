"""Devices that run one forward at a time, and the replicas of members on them."""

from collections.abc import Sequence
from functools import partial
from typing import Protocol

from specrouter_dist.config import LookupMember
from specrouter_dist.routing.observations import (
    ForwardKey,
    Observations,
    OutcomeKey,
    PairKey,
    WaitKey,
    context_of,
)
from specrouter_dist.routing.traffic import GREEDY
from specrouter_dist.simulation.clock import Action, Clock
from specrouter_dist.simulation.forks import TextForks, last_draws
from specrouter_dist.simulation.profile import MemberProfile
from specrouter_dist.simulation.session import Session
from specrouter_dist.speculation.messages import TokenArray
from specrouter_dist.speculation.odds import Odds
from specrouter_dist.speculation.outcomes import Outcomes, Verdict
from specrouter_dist.speculation.preparing import Preparations
from specrouter_dist.speculation.steps import Step

MAX_DRAFTS = 16
"""Most tokens that a drafter draws in one step before it looks at its mail, as in a worker."""
_LARGEST_TIMED_ROWS = 64
"""Forwards of more rows per session are prompts; the planner asks about decoding."""

Batch = Sequence[tuple[Session, Step, TokenArray]]
"""Sessions with a step, and the picks that it will yield."""


class Audience(Protocol):
    """Who hears of what sessions do, and carries their mail."""

    def on_stepped(self, session: Session, new: TokenArray) -> None:
        """The session's step is done; its stream grew by ``new``."""
        ...

    def say(self, session: Session) -> None:
        """The session may have something to say."""
        ...


class Replica:
    """One copy of a member, on one device.

    Args:
        member: a model; or a proposer from the text, whose forwards do not exist.
        index: of the model in the profile.
        number: of the copy.
    """

    def __init__(
        self,
        member: MemberProfile | LookupMember,
        index: int,
        number: int,
        device: "Device",
    ) -> None:
        self.member = member
        self.name = member.name
        self.is_target = member.role == "target"
        self.index = index
        self.number = number
        self.device = device
        self.alive = True
        self.num_steps = 0
        """What was fed to prepare for outcomes is none."""
        self.busy_us = 0.0
        """Time spent in its forwards."""
        self.num_attached = 0
        """Requests that it works for now: its load."""
        self.sessions: dict[int, Session] = {}
        """By request."""
        self.ready: dict[Session, None] = {}
        """Sessions that something has happened to since they last had nothing to do."""
        self.preparations = Preparations(self._begin_preparing)
        self._odds = Odds()
        device.add(self)

    def note(self, session: Session, new: TokenArray) -> None:
        """The session's stream grew by ``new``; what else might have been drawn counts later."""
        if session.down is not None and self.preparations.wants_runner_ups(session):
            self.preparations.note(session, last_draws(session, len(new)))

    def _begin_preparing(self, session: Session) -> Outcomes:
        end = session.request.end
        return Outcomes(TextForks(session), self._odds, stop_ids=frozenset(), end=end)

    def elapsed_us(self, steps: Sequence[Step]) -> float:
        """Of one ragged forward, then one for each further draft of those sessions that want it."""
        member = self.member
        assert isinstance(member, MemberProfile)
        num_rows = sum(len(step.tokens) for step in steps)
        elapsed_us = member.step.us(num_rows, len(steps), sum(step.start for step in steps))
        most = max(step.num_drafts for step in steps)
        for k in range(most):
            contexts = [step.start for step in steps if step.num_drafts > k]
            elapsed_us += member.draft_us(len(contexts), sum(contexts))
        return elapsed_us


class Device:
    """One forward at a time; the member nearest the client goes first, as in a worker."""

    def __init__(self, name: str, clock: Clock, audience: Audience, seen: Observations) -> None:
        self.name = name
        self.busy_us = 0.0
        """Time spent in forwards."""
        self.observations = seen
        self._replicas: list[Replica] = []
        self._clock = clock
        self._audience = audience
        self._working = False
        self._turn_due = False
        self._touched: dict[Session, None] = {}

    def add(self, replica: Replica) -> None:
        """Members come in the profile's order, the target last."""
        self._replicas.insert(0, replica)

    def touch(self, session: Session) -> None:
        """Something has happened to ``session``: it may have a step, or something to say."""
        self._touched[session] = None
        if not self._working:
            self._take_turn_later()

    def _take_turn_later(self) -> None:
        if not self._turn_due:
            self._turn_due = True
            self._clock.turn(self._take_turn)

    def _take_turn(self) -> None:
        """Says what is to be said, which members of this device hear at once; then a forward."""
        while self._touched:
            touched, self._touched = self._touched, {}
            for session in touched:
                if not session.closed:
                    self._audience.say(session)
                    session.replica.ready[session] = None
        self._turn_due = False
        for replica in self._replicas:
            if self._answer(replica):
                return  # It is said before anything is computed.
            batch = self._take_steps(replica)
            if batch:
                elapsed_us = replica.elapsed_us([step for _, step, _ in batch])
                self._compute(
                    replica, elapsed_us, partial(self._finish, replica, batch, elapsed_us)
                )
                return
        for replica in self._replicas:
            waiting = replica.preparations.advance()
            if waiting is not None:
                waiting.request.device_us += waiting.prepared_us
                self._compute(replica, waiting.prepared_us, self._take_turn_later)
                return

    def _compute(self, replica: Replica, elapsed_us: float, then: Action) -> None:
        """A forward; ``then`` takes what came of it, and the next turn."""
        self._working = True
        self._clock.after(elapsed_us, partial(self._end_forward, replica, elapsed_us, then))

    def _end_forward(self, replica: Replica, elapsed_us: float, then: Action) -> None:
        self._working = False
        self.busy_us += elapsed_us
        replica.busy_us += elapsed_us
        then()

    def _answer(self, replica: Replica) -> bool:
        """Extends the streams whose next tokens were prepared; whether there was one."""
        is_any = False
        for session, verdict in replica.preparations.answer(replica.ready):
            self._observe_outcome(session, verdict)
            self.touch(session)
            is_any = True
        return is_any

    def _take_steps(self, replica: Replica) -> Batch:
        batch: list[tuple[Session, Step, TokenArray]] = []
        for session in list(replica.ready):
            stage = session.stage
            step = stage.next_step()
            if step is not None:
                session.deadline_us = None
                self._observe_outcome(session, replica.preparations.finish(session))
                self._observe_wait(session, step)
                batch.append((session, step, _picks(session, step)))
                continue
            del replica.ready[session]
            replica.preparations.rest(session)
            if (wait_ms := stage.wait_ms) is None:
                session.deadline_us = None
            elif session.deadline_us is None:
                session.deadline_us = self._clock.now_us + wait_ms * 1e3
                session.waits_since_us = self._clock.now_us
                if not session.has_timer:
                    session.has_timer = True
                    self._clock.after(wait_ms * 1e3, partial(self._look_at_deadline, session))
        return batch

    def _look_at_deadline(self, session: Session) -> None:
        """One timer per session: a wait that is over leaves it to the next one."""
        session.has_timer = False
        if session.deadline_us is None or session.closed:
            return
        left_us = session.deadline_us - self._clock.now_us
        if left_us > 0:
            session.has_timer = True
            self._clock.after(left_us, partial(self._look_at_deadline, session))
            return
        session.deadline_us = None
        session.model_stage.on_deadline()
        self.touch(session)

    def _finish(self, replica: Replica, batch: Batch, elapsed_us: float) -> None:
        replica.num_steps += 1
        key = self._key(replica.name, batch)
        if key is not None:
            self.observations.add_forward(key, elapsed_us)
        for session, step, picks in batch:
            if session.closed:
                continue
            session.request.device_us += elapsed_us / len(batch)
            self._end_step(session, step, picks)
        self._take_turn_later()

    def _end_step(self, session: Session, step: Step, picks: TokenArray) -> None:
        stage = session.model_stage
        counts = stage.own_counts if step.from_own_text else stage.counts
        accepted = counts.accepted
        new = stage.on_step_done(picks)
        session.replica.note(session, new)
        accepted = counts.accepted - accepted
        session.drafter_restarts = accepted < step.num_proposals
        was_judged = len(new) > accepted or accepted == step.num_proposals
        if step.num_picks and session.upstream and was_judged and not step.from_own_text:
            key = PairKey(session.upstream, session.replica.name, GREEDY)
            self.observations.add_block(key, step.num_proposals, accepted)
        self._audience.on_stepped(session, new)
        if not session.closed:
            self.touch(session)

    def _observe_outcome(self, session: Session, verdict: Verdict | None) -> None:
        if verdict is not None:
            key = OutcomeKey(session.replica.name, GREEDY, session.num_outcomes)
            self.observations.add_outcome(key, verdict.was_rejected, verdict.num_ready)

    def _observe_wait(self, session: Session, step: Step) -> None:
        since_us, session.waits_since_us = session.waits_since_us, None
        is_comparable = session.drafter_restarts and session.num_attached == 1
        is_comparable &= not session.drafts_ahead
        if since_us is None or not is_comparable or session.replica.num_attached > 1:
            return
        if step.num_proposals >= session.edges[0].patience:
            key = WaitKey(session.wanted[0], session.replica.name, step.num_proposals)
            self.observations.add_wait(key, self._clock.now_us - since_us)

    def _key(self, name: str, batch: Batch) -> ForwardKey | None:
        num_rows = sum(len(step.tokens) for _, step, _ in batch)
        num_drafts = {step.num_drafts for _, step, _ in batch}
        if num_rows > _LARGEST_TIMED_ROWS * len(batch) or len(num_drafts) > 1:
            return None
        session = batch[0][0]
        beside = session.upstream if len(batch) == 1 and session.drafts_ahead else None
        context = context_of([step.start for _, step, _ in batch])
        return ForwardKey(name, num_rows, len(batch), num_drafts.pop(), beside, context)


def _picks(session: Session, step: Step) -> TokenArray:
    """What the member answers to ``step``, by now."""
    if not step.num_picks:
        return step.tokens[:0]
    position = step.first_pick
    return session.request.text.picks(
        session.replica.index,
        position,
        session.stage.tokens.hash_at(position),
        step.tokens[len(step.tokens) - step.num_proposals :],
        step.num_drafts,
    )
