"""Requests: when they come, which replica and which plan they get, and when they end.

The plan follows the router's table as in a worker: the ladder of the replica's load, and on it
the rung that suits what the request has accepted so far.
"""

from collections import deque
from collections.abc import Sequence
from math import inf

import numpy as np

from specrouter_dist.config import Plan
from specrouter_dist.routing.climbing import Climb
from specrouter_dist.routing.observations import Observations, Reading
from specrouter_dist.routing.plans import Ladder, PlanTable, load_index
from specrouter_dist.routing.switching import Progress
from specrouter_dist.routing.traffic import GREEDY
from specrouter_dist.simulation.chains import Chains
from specrouter_dist.simulation.clock import Clock
from specrouter_dist.simulation.devices import Replica
from specrouter_dist.simulation.profile import Profile
from specrouter_dist.simulation.results import Recorder
from specrouter_dist.simulation.session import Request, Session
from specrouter_dist.simulation.texts import Texts
from specrouter_dist.speculation.messages import TokenArray
from specrouter_dist.speculation.tokens import TokenBuffer

_SHARED_EVERY_US = 0.25e6
"""At most so often a finished text is read by all members, as in a worker; here at no time."""
_SLACK_TOKENS = 64
"""Texts are known a little beyond the end, since a drafter may look there."""


class Requests:
    """All requests of a run.

    Args:
        observations: where measurements go.
        table: the router's present choice; None: the profile's plan is for everybody.
    """

    def __init__(
        self,
        profile: Profile,
        texts: Texts,
        clock: Clock,
        chains: Chains,
        targets: Sequence[Replica],
        recorder: Recorder,
        observations: Observations,
        table: PlanTable | None,
    ) -> None:
        self.num_ended = 0
        self._profile = profile
        self._texts = texts
        self._clock = clock
        self._chains = chains
        self._targets = targets
        self._recorder = recorder
        self._observations = observations
        self._only = Ladder.only(profile.plan) if profile.plan else None
        """For everybody, in place of the router's."""
        self._table = table or PlanTable.only(Plan(chain=(profile.target.name,)))
        self._share_at_us = 0.0 if table else inf
        """No text is shared before."""
        self._loads = [0] * len(targets)
        """By target replica: index of ``LOADS``."""
        self._num_arrived = 0
        self._waiting: deque[Request] = deque()

    @property
    def all_ended(self) -> bool:
        """Whether the run is over."""
        return self.num_ended == self._profile.workload.num_requests

    def begin(self) -> None:
        """The first requests arrive; the others follow."""
        workload = self._profile.workload
        if workload.concurrency is not None:
            for _ in range(min(workload.concurrency, workload.num_requests)):
                self._arrive()
            return
        rng = np.random.default_rng(self._profile.seed)
        assert workload.rate_per_s is not None
        gaps = rng.exponential(1e6 / workload.rate_per_s, workload.num_requests)
        for at_us in np.cumsum(gaps).tolist():
            self._clock.after(at_us, self._arrive)

    def set_plans(self, table: PlanTable) -> None:
        """Re-plans all running requests."""
        self._table = table
        for replica in self._targets:
            for session in replica.sessions.values():
                self._board(session)

    def on_grown(self, session: Session, new: TokenArray) -> None:
        """The target's stream grew."""
        request, stage = session.request, session.model_stage
        if not new:
            return
        request.tokens.extend(new)
        request.num_rounds += 1
        if request.first_token_us is None:
            request.first_token_us = self._clock.now_us
        chain = (*session.wanted[: session.num_attached], session.replica.name)
        self._recorder.on_tokens(self._clock.now_us, chain, len(new))
        request.climb.on_round(stage.counts, len(new))
        if stage.finished:
            self._end(request)
        elif self._only is None:
            # The load may have changed, or the request agree more or less than others.
            self._board(session)

    def on_target_lost(self, sessions: Sequence[Session]) -> None:
        """Their requests go on elsewhere, with the tokens that they have."""
        for session in sessions:
            request = session.request
            request.session = None
            # As when a client submits again what it has: the counts begin anew.
            request.climb.leave(self._observations)
            request.climb = self._new_climb()
            self._waiting.append(request)
        self.admit()

    def admit(self) -> None:
        """Begins the waiting requests, each where the fewest run."""
        while self._waiting:
            alive = (replica for replica in self._targets if replica.alive)
            replica = min(alive, key=lambda replica: replica.num_attached, default=None)
            if replica is None:
                return
            request = self._waiting.popleft()
            session = request.session = self._chains.open_target(replica, request)
            self._note_load(replica)
            self._board(session)
            replica.device.touch(session)

    def _arrive(self) -> None:
        self._num_arrived += 1
        workload = self._profile.workload
        prompt = self._texts.prompt(self._num_arrived)
        end = len(prompt) + workload.output_tokens
        request = Request(
            id=self._num_arrived,
            prompt=prompt,
            end=end,
            text=self._texts.text(self._num_arrived, end + _SLACK_TOKENS),
            arrived_us=self._clock.now_us,
            tokens=prompt[:],
            climb=self._new_climb(),
        )
        self._waiting.append(request)
        self.admit()

    def _end(self, request: Request) -> None:
        assert request.session is not None
        replica = request.session.replica
        request.climb.leave(self._observations)
        for session in list(request.sessions):
            self._chains.close(session)
        request.session = None
        self._check(request)
        self._share(request)
        self.num_ended += 1
        self._recorder.on_ended(self._clock.now_us, request)
        self._note_load(replica)
        workload = self._profile.workload
        if workload.concurrency is not None and self._num_arrived < workload.num_requests:
            self._arrive()

    def _check(self, request: Request) -> None:
        """The promise: the output is what the target writes alone (invariant 1)."""
        target = len(self._profile.members) - 1
        start = len(request.prompt)
        num_drafts = request.end - start - 1
        alone = request.text.picks(target, start, _hash(request.prompt), (), num_drafts)
        assert request.tokens[start:] == alone, f"request {request.id} differs from the target's"

    # -- plans ---------------------------------------------------------------------------------

    def _new_climb(self) -> Climb:
        return Climb(GREEDY, lambda: self._clock.now_us / 1e6)

    def _note_load(self, replica: Replica) -> None:
        number = replica.number
        self._loads[number] = load_index(replica.num_attached, self._loads[number])

    def _board(self, session: Session) -> None:
        """The request goes on with the plan that is best for it now."""
        request, load = session.request, self._loads[session.replica.number]
        ladder = self._only or self._table.of(GREEDY)[load]
        before = request.climb.plan
        progress = Progress(len(request.tokens), request.end - len(request.tokens))
        plan = request.climb.board(ladder, load, progress, self._observations)
        if plan is not before:
            request.num_replans += before is not None
            self._chains.want(session, plan)

    def _share(self, request: Request) -> None:
        """The finished text teaches the router what every member would have made of it."""
        if self._clock.now_us < self._share_at_us:
            return
        self._share_at_us = self._clock.now_us + _SHARED_EVERY_US
        start, output = len(request.prompt), request.tokens[len(request.prompt) :]
        for index, member in reversed(list(enumerate(self._profile.members))):
            picks = request.text.picks(index, start, _hash(request.prompt), output[:-1])
            self._observations.readings.append(
                Reading(request.id, member.name, GREEDY, picks, request.prompt)
            )


def _hash(prompt: TokenArray) -> int:
    return TokenBuffer(prompt).hash_at(len(prompt))
