"""A pool under a virtual clock: real stages, the real router, synthetic models.

Nothing here reads a clock or draws from a global source: the same profile gives the same run.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping
from functools import partial

from specrouter_dist.config import LookupMember
from specrouter_dist.routing.observations import Observations
from specrouter_dist.routing.router import Router
from specrouter_dist.simulation.chains import Chains
from specrouter_dist.simulation.clock import Clock
from specrouter_dist.simulation.devices import Device, Replica
from specrouter_dist.simulation.measuring import new_router, teach
from specrouter_dist.simulation.oracle import Oracle
from specrouter_dist.simulation.profile import Failure, Profile
from specrouter_dist.simulation.requests import Requests
from specrouter_dist.simulation.results import MemberWork, Recorder, Results
from specrouter_dist.simulation.session import Session
from specrouter_dist.simulation.texts import Texts
from specrouter_dist.speculation.messages import TokenArray

_DECIDE_EVERY_US = 5e5
"""As the router's actor."""


class World:
    """Everything that a profile describes, before the first request.

    Args:
        profile: the pool and what is asked of it.
        texts: the members' picks, where they are not to be drawn from the profile's law.
        lookups: members of the profile's plan that propose from the text, by name. Drawn texts do
            not repeat themselves.

    Raises:
        ConfigError: the profile's agreements contradict each other.
    """

    def __init__(
        self,
        profile: Profile,
        texts: Texts | None = None,
        lookups: Mapping[str, LookupMember] | None = None,
    ) -> None:
        self._profile = profile
        self._clock = Clock()
        self._recorder = Recorder()
        self._observations = Observations()
        self._devices: dict[str, list[Device]] = defaultdict(list)
        self._replicas = {member.name: self._place(i) for i, member in enumerate(profile.members)}
        for lookup in (lookups or {}).values():
            self._replicas[lookup.name] = self._place_everywhere(lookup)
        texts = texts or Oracle(profile)
        self._router: Router | None = None
        if profile.plan is None:
            assert isinstance(texts, Oracle), "given texts are for a stated plan"
            self._router = new_router(profile)
            teach(self._router, profile, texts)
            self._router.decide(now_s=0.0)
            self._recorder.on_table(0.0, self._router.table)
        self._chains = Chains(profile, self._replicas, self._clock)
        self._requests = Requests(
            profile,
            texts,
            self._clock,
            self._chains,
            self._replicas[profile.target.name],
            self._recorder,
            self._observations,
            self._router.table if self._router else None,
        )

    def run(self, on_ended: Callable[[int], object] = lambda _: None) -> Results:
        """Runs until every request has ended. ``on_ended`` hears how many have."""
        for failure in self._profile.failures:
            self._clock.after(failure.at_s * 1e6, partial(self._fail, failure))
        self._requests.begin()
        if self._router is not None:
            self._clock.after(_DECIDE_EVERY_US, self._decide)
        num_ended = 0
        while not self._requests.all_ended:
            assert self._clock.run_next(), "requests are open, and nothing will ever happen"
            if self._requests.num_ended != num_ended:
                num_ended = self._requests.num_ended
                on_ended(num_ended)
        return self._recorder.results(self._clock.now_us, self._utilisation(), self._work())

    def on_stepped(self, session: Session, new: TokenArray) -> None:
        """A session's step is done."""
        if session.replica.is_target:
            self._requests.on_grown(session, new)

    def say(self, session: Session) -> None:
        """A session may have something to say."""
        self._chains.say(session)

    def _place(self, index: int) -> list[Replica]:
        """The replicas of a member, on devices that it may share."""
        member = self._profile.members[index]
        name = self._profile.device_of(member)
        copies = self._devices[name]
        while len(copies) < member.replicas:
            copies.append(Device(name, self._clock, self, self._observations))
        return [Replica(member, index, i, copies[i]) for i in range(member.replicas)]

    def _place_everywhere(self, lookup: LookupMember) -> list[Replica]:
        """It has no device of its own."""
        devices = [device for copies in self._devices.values() for device in copies]
        return [Replica(lookup, 0, i, device) for i, device in enumerate(devices)]

    def _decide(self) -> None:
        """The router takes what was measured since it last did."""
        assert self._router is not None
        seen = self._observations
        if seen.has_any:
            now_s = self._clock.now_us / 1e6
            self._router.observe(seen, now_s)
            measured = (seen.forwards, seen.pairs, seen.waits, seen.paces, seen.outcomes)
            for part in (*measured, seen.readings):
                part.clear()
            table = self._router.decide(now_s) if self._router.is_due(now_s) else None
            if table is not None:
                self._recorder.on_table(self._clock.now_us, table)
                self._requests.set_plans(table)
        if not self._clock.is_over:
            self._clock.after(_DECIDE_EVERY_US, self._decide)

    def _fail(self, failure: Failure) -> None:
        for replica in self._replicas[failure.member]:
            if failure.replica in (None, replica.number) and replica.alive:
                lost = self._chains.lose(replica)
                if replica.is_target:
                    self._requests.on_target_lost(lost)
        self._clock.after(failure.down_s * 1e6, partial(self._return, failure))

    def _return(self, failure: Failure) -> None:
        """Empty: whoever wants it attaches again."""
        for replica in self._replicas[failure.member]:
            if failure.replica in (None, replica.number):
                replica.alive = True
        self._requests.admit()
        for replicas in self._replicas.values():
            for replica in replicas:
                for session in replica.sessions.values():
                    self._chains.make_whole(session)

    def _work(self) -> dict[str, MemberWork]:
        return {
            name: MemberWork(sum(r.num_steps for r in copies), sum(r.busy_us for r in copies) / 1e6)
            for name, copies in self._replicas.items()
        }

    def _utilisation(self) -> dict[str, float]:
        duration_us = self._clock.now_us
        return {
            name: sum(device.busy_us for device in copies) / duration_us / len(copies)
            for name, copies in self._devices.items()
        }
