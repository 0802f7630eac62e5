"""Devices that run one forward at a time, and the replicas of members on them."""

from collections.abc import Sequence
from functools import partial
from typing import Protocol

from specrouter_dist.config import LookupMember
from specrouter_dist.routing.observations import Observations
from specrouter_dist.routing.observing import (
    answer,
    end_step,
    forward_key,
    observe_outcome,
    wait_key,
)
from specrouter_dist.simulation.clock import Action, Clock
from specrouter_dist.simulation.forks import TextForks, last_draws
from specrouter_dist.simulation.profile import MemberProfile
from specrouter_dist.simulation.session import Session
from specrouter_dist.speculation.messages import TokenArray
from specrouter_dist.speculation.odds import Odds
from specrouter_dist.speculation.outcomes import Outcomes
from specrouter_dist.speculation.preparing import Preparations
from specrouter_dist.speculation.runs import Runs
from specrouter_dist.speculation.steps import MOST_BATCH_TOKENS, Step

MAX_DRAFTS = 16
"""Most tokens that a drafter draws in one step before it looks at its mail, as in a worker."""

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
        self.runs = Runs() if self.is_target else None
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
            ready = replica.ready
            if answer(replica.name, replica.preparations, ready, self.observations, self.touch):
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

    def _take_steps(self, replica: Replica) -> Batch:
        if replica.runs is not None:
            replica.runs.allow([session.model_stage for session in replica.ready])
        batch: list[tuple[Session, Step, TokenArray]] = []
        num_tokens = 0
        for session in list(replica.ready):
            if num_tokens >= MOST_BATCH_TOKENS:
                for taken, *_ in batch:
                    replica.ready[taken] = replica.ready.pop(taken)
                break
            stage = session.stage
            step = stage.next_step()
            if step is not None:
                num_tokens += len(step.tokens)
                session.deadline_us = None
                verdict = replica.preparations.finish(session)
                observe_outcome(replica.name, session, verdict, self.observations)
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
        if replica.runs is not None:
            replica.runs.note([step for _, step, _ in batch], elapsed_us)
        key = forward_key(replica.name, [(session, step) for session, step, _ in batch])
        if key is not None:
            self.observations.add_forward(key, elapsed_us)
        for session, step, picks in batch:
            if session.closed:
                continue
            session.request.device_us += elapsed_us / len(batch)
            self._end_step(session, step, picks)
        self._take_turn_later()

    def _end_step(self, session: Session, step: Step, picks: TokenArray) -> None:
        new = end_step(session.replica.name, session, step, picks, self.observations)
        session.replica.note(session, new)
        self._audience.on_stepped(session, new)
        if not session.closed:
            self.touch(session)

    def _observe_wait(self, session: Session, step: Step) -> None:
        since_us, session.waits_since_us = session.waits_since_us, None
        if since_us is None or session.replica.num_attached > 1:
            return
        if (key := wait_key(session.replica.name, session, step)) is not None:
            self.observations.add_wait(key, self._clock.now_us - since_us)


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
