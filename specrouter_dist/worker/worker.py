"""The engine thread of a worker: mail in, one forward, mail out, again.

It alone owns stages, block tables and the clock. Everything else reaches it through the hub's
queue.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence

from specrouter_dist.links.control import (
    Cancel,
    Failed,
    Output,
    Report,
    Submit,
)
from specrouter_dist.links.hub import Hub
from specrouter_dist.routing.doubt import Lateness
from specrouter_dist.routing.observations import Observations
from specrouter_dist.routing.plans import PlanTable
from specrouter_dist.speculation.ending import Ending
from specrouter_dist.speculation.messages import Truth
from specrouter_dist.worker.chains import Chains
from specrouter_dist.worker.inbox import Inbox
from specrouter_dist.worker.lora import AdapterHost
from specrouter_dist.worker.member import Member
from specrouter_dist.worker.model_host import ModelHost
from specrouter_dist.worker.outbox import Outbox
from specrouter_dist.worker.posts import Call
from specrouter_dist.worker.reading import Readers
from specrouter_dist.worker.requests import Requests
from specrouter_dist.worker.session import Session
from specrouter_dist.worker.slim import SlimHost
from specrouter_dist.worker.status import Status
from specrouter_dist.worker.tiers import TieredHost
from specrouter_dist.worker.turns import Turns

logger = logging.getLogger(__name__)


class Worker:
    """One device, one engine thread, one or more members.

    Args:
        members: the members of this worker; the target, if it is here, is among them.
        hub: its links. The worker closes it when it stops.
        table: the plans to begin with (used where the target is).
        make_ending: where a request's text ends (used where the target is).
        deliver: takes what goes to clients of this process.
        on_failure: called when the engine thread has failed, after its links are closed.
        are_cpus_taken: whether all CPUs are wanted just now; then texts are hardly read.
    """

    def __init__(
        self,
        members: Sequence[Member],
        hub: Hub,
        table: PlanTable,
        make_ending: Callable[[Submit], Ending],
        deliver: Callable[[Output | Failed], None],
        *,
        on_failure: Callable[[Exception], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
        are_cpus_taken: Callable[[], bool] = lambda: False,
    ) -> None:
        self.hub = hub
        self.error: Exception | None = None
        """What ended the engine thread, if it was not :meth:`stop`."""
        self.is_urgent = threading.Event()
        """What was measured since :meth:`take_observations` was called should not wait."""
        self._clock = clock
        self._on_failure = on_failure
        self._observations = Observations()
        self._lateness = Lateness()
        """Of turns."""
        self._touched: dict[Session, None] = {}
        self._closing = False
        self._outbox = Outbox(hub, lambda peer: self._inbox.on_peer_lost(peer))
        self._chains = Chains({m.name: m for m in members}, hub, self._outbox, self._touch)
        models = [m for m in members if isinstance(m, ModelHost)]
        self._models = sorted(models, key=lambda model: not model.is_target)
        tiered = {m.name: TieredHost(m) for m in models if isinstance(m, SlimHost)}
        fronts = [m for m in self._models if m.is_target]
        others = [m for m in self._models[len(fronts) :] if not isinstance(m, AdapterHost)]
        self._turns = Turns([*fronts, *tiered.values()], others)
        self._readers = Readers(self._models, clock, are_cpus_taken)
        self._requests = (
            self._requests_of(fronts[0], tiered, table, make_ending) if fronts else None
        )
        self._inbox = Inbox(
            hub.address.worker,
            self._chains,
            self._outbox,
            self._requests,
            self._readers,
            self._touch,
            deliver,
            clock,
        )
        self._thread = threading.Thread(target=self._run, name=f"engine-{hub.address.worker}")

    def _requests_of(
        self,
        target: ModelHost,
        tiered: Mapping[str, ModelHost],
        table: PlanTable,
        make_ending: Callable[[Submit], Ending],
    ) -> Requests:
        return Requests(
            target,
            tiered,
            self._chains,
            self._outbox,
            table,
            make_ending,
            self._touch,
            lambda: self._observations,
            self._readers.give_way,
            self._clock,
        )

    # -- from other threads --------------------------------------------------------------------

    def start(self) -> None:
        """Starts the engine thread."""
        self._thread.start()

    def stop(self) -> None:
        """Ends the engine thread and closes the links."""
        self.hub.post(Call(self._close))
        self._thread.join()

    def submit(self, message: Submit | Cancel) -> None:
        """Hands over a request of a client of this process."""
        self.hub.post(message)

    def take_observations(self) -> Observations:
        """What was measured since the last call. Called on the engine thread (:class:`Call`)."""
        taken, self._observations = self._observations, Observations()
        self.is_urgent.clear()
        return taken

    @property
    def num_sessions(self) -> int:
        """Open sessions of all members, the parked ones too."""
        return len(self._chains.sessions)

    @property
    def status(self) -> Status:
        """How it is just now. Asked on the engine thread (:class:`Call`)."""
        return Status.of(self.num_sessions, self._models, self._requests)

    # -- the engine thread ---------------------------------------------------------------------

    def _run(self) -> None:
        try:
            busy, began = False, self._clock()
            while not self._closing:
                events = self.hub.receive(0.0 if busy else self._idle_s())
                # A turn begins where the last one ended, or when a wait has ended: no time lies
                # between what steps are said to take and what is waited.
                began = began if busy else self._clock()
                for event in events:
                    self._inbox.on_event(event)
                self._settle()
                busy = self._advance(began)
                began = self._clock()
        except Exception as error:
            # The engine thread is the worker: without it the process is of no use.
            logger.exception("the engine thread of %s has failed", self.hub.address.worker)
            self.error = error
        finally:
            self.hub.close()
        if self.error is not None and self._on_failure is not None:
            self._on_failure(self.error)

    def _close(self) -> None:
        self._readers.stop()
        self._closing = True

    def _touch(self, session: Session) -> None:
        self._touched[session] = None

    def _idle_s(self) -> float | None:
        """How long nothing has to be done: until the next deadline or lease ends."""
        now = self._clock()
        lease_end = self._chains.expire(now)
        ends = [lease_end] if lease_end is not None else []
        if (reading_s := self._readers.idle_s()) is not None:
            ends.append(now + reading_s)
        for session in self._chains.sessions:
            if session.deadline is None:
                continue
            if session.deadline <= now:
                session.deadline = None
                session.model_stage.on_deadline()
                self._touch(session)
            else:
                ends.append(session.deadline)
        if self._touched:
            return 0.0
        return max(0.0, min(ends) - now) if ends else None

    def _settle(self) -> None:
        """Says what is to be said; members of this worker hear it at once."""
        while self._touched or self._outbox.local:
            touched, self._touched = self._touched, {}
            for session in touched:
                if session not in self._chains.sessions:
                    continue
                self._say(session)
                if isinstance(session.member, ModelHost):
                    session.member.ready[session] = None
            while self._outbox.local:
                self._inbox.on_message(None, self._outbox.local.popleft())
        self._outbox.flush()

    def _say(self, session: Session) -> None:
        for message in session.stage.flush():
            if isinstance(message, Truth):
                self._outbox.put(session.up_peer, message)
                continue
            if session.down_edge is not None:
                levels, device_us = session.levels(), session.total_device_us()
                self._outbox.put(session.down_peer, Report(session.down_edge, levels, device_us))
            self._outbox.put(session.down_peer, message)

    def _advance(self, began: float) -> bool:
        """One forward of the first member that has something to do, or else to prepare or to read;
        whether there was one. ``began``: when the turn did."""
        for model in self._turns:
            if model.answer(self._observations, self._touch):
                return True  # It is said before anything is computed.
            batch = model.take_steps(began, self._observations)
            if not batch:
                continue
            # Asked before: the forward may end the request and with it the chain.
            key = model.turn_key(batch)
            steps = dict(batch)
            for session, new, picks in model.forward(batch, self._observations):
                self._touch(session)
                if model.is_target and self._requests is not None:
                    self._requests.on_grown(session, steps[session], new, picks)
            self._settle()
            if key is not None and not model.threads.was_trial:
                elapsed_us = (self._clock() - began) * 1e6
                if self._lateness.is_change(elapsed_us, is_usual=True):
                    self._observations.is_urgent = True
                    # It would blur what is new.
                    self._observations.drop_forwards(key.member)
                self._observations.add_forward(key, elapsed_us)
            if self._observations.is_urgent:
                self.is_urgent.set()
            self._turns.had(model)
            return True
        is_preparing = any(model.prepare() for model in self._models)
        return is_preparing or self._readers.advance(self._observations)
