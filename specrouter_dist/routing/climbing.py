"""A request's way along the router's plans, and the time its rounds take on each."""

from collections.abc import Callable
from dataclasses import dataclass, field

from specrouter_dist.config import Plan
from specrouter_dist.routing.observations import Observations, PaceKey
from specrouter_dist.routing.plans import LOADS, Ladder, Rung, Standing
from specrouter_dist.routing.switching import Progress
from specrouter_dist.routing.traffic import Traffic
from specrouter_dist.speculation.steps import StageCounts

_UNTIMED_ROUNDS = 2
"""Of each plan: the newcomers catch up."""


@dataclass(slots=True)
class _Stretch:
    """Rounds under one plan and load."""

    plan: Plan
    load: int
    num_rounds: int = 0
    since_s: float | None = None
    timed_rounds: int = 0
    timed_tokens: int = 0


@dataclass(slots=True)
class Climb:
    """One request that leaves the choice to the router.

    Attributes:
        traffic: the kind of request.
        clock: seconds.
    """

    traffic: Traffic
    clock: Callable[[], float]
    _rung: Rung | None = None
    _standing: Standing = field(default_factory=Standing)
    _num_accepted: int = 0
    _num_rejected: int = 0
    _stretch: _Stretch | None = None

    @property
    def plan(self) -> Plan | None:
        """In force now; None before the request is admitted."""
        return self._rung.plan if self._rung else None

    def is_settled(self, ladder: Ladder, load: int) -> bool:
        """Whether, however the request agrees, it would go on as it does."""
        is_same = self._stretch is not None and self._stretch.load == load
        return is_same and len(ladder.rungs) == 1 and self._rung is ladder.rungs[0]

    def board(
        self, ladder: Ladder, load: int, progress: Progress, observations: Observations
    ) -> Plan:
        """The request goes on with ``ladder``, and with what it has agreed on so far."""
        rung = ladder.choose(self._rung, self._standing, progress)
        if rung is not self._rung or self._stretch is None or self._stretch.load != load:
            self.leave(observations)
            self._stretch = _Stretch(rung.plan, load)
        self._rung = rung
        return rung.plan

    def on_round(self, counts: StageCounts, num_new_tokens: int) -> None:
        """The target's stream grew by a round."""
        assert self._rung is not None and self._stretch is not None
        self._standing.add(
            counts.accepted - self._num_accepted,
            counts.truncations - self._num_rejected,
            self._rung.agreement,
        )
        self._num_accepted, self._num_rejected = counts.accepted, counts.truncations
        stretch = self._stretch
        stretch.num_rounds += 1
        if stretch.num_rounds == _UNTIMED_ROUNDS:
            stretch.since_s = self.clock()
        elif stretch.num_rounds > _UNTIMED_ROUNDS:
            # Alone, the target has made a forward for each.
            stretch.timed_rounds += num_new_tokens if len(stretch.plan.chain) == 1 else 1
            stretch.timed_tokens += num_new_tokens

    def leave(self, observations: Observations) -> None:
        """The present plan ends: how fast it was is told."""
        stretch, self._stretch = self._stretch, None
        if stretch is None or stretch.since_s is None or not stretch.timed_rounds:
            return
        elapsed_us = (self.clock() - stretch.since_s) * 1e6
        key = PaceKey(stretch.plan, self.traffic, LOADS[stretch.load])
        observations.add_pace(key, stretch.timed_rounds, stretch.timed_tokens, elapsed_us)
