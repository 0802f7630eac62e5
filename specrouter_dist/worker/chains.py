"""Who drafts for whom, and the sessions that are there for it (DESIGN: section 3).

What a session has above it is in :mod:`~specrouter_dist.worker.upstreams`; here is whom it drafts
for: opening and finding sessions, parking those that nobody listens to, and ending them.
"""

import logging
from collections.abc import Callable, Mapping

from specrouter_dist.config import Plan
from specrouter_dist.errors import SpecRouterError, UnavailableError
from specrouter_dist.links.address import Address, Peer
from specrouter_dist.links.control import Attach, Detach, Refused, Replan
from specrouter_dist.links.hub import Hub
from specrouter_dist.observability.spans import begin_span
from specrouter_dist.routing.traffic import Traffic
from specrouter_dist.speculation.ending import StopIds
from specrouter_dist.speculation.messages import EdgeId, Truth
from specrouter_dist.speculation.stage import Stage
from specrouter_dist.worker.member import Member, Opening
from specrouter_dist.worker.outbox import Outbox
from specrouter_dist.worker.parking import Parking
from specrouter_dist.worker.session import Session
from specrouter_dist.worker.telling import tell_drafted
from specrouter_dist.worker.upstreams import Upstreams

logger = logging.getLogger(__name__)


class Chains:
    """The edges of a worker's sessions."""

    def __init__(
        self,
        members: Mapping[str, Member],
        hub: Hub,
        outbox: Outbox,
        touch: Callable[[Session], None],
    ) -> None:
        self.sessions: dict[Session, None] = {}
        """Every open session of this worker, the parked ones too."""
        self.by_down_edge: dict[EdgeId, Session] = {}
        self.upstreams = Upstreams(members, hub, outbox, touch)
        self._members = members
        self._outbox = outbox
        self._touch = touch
        self._parking = Parking()

    def set_directory(self, directory: Mapping[str, Address]) -> None:
        """Where each member of the pool is now. Shortened chains become whole again."""
        self.upstreams.set_directory(directory, self.sessions)

    def on_attach(self, peer: Peer | None, message: Attach) -> None:
        """Finds or opens the session that is to draft for ``message.edge``."""
        try:
            session = self._session_for(message)
        except SpecRouterError as error:
            self._outbox.put(peer, Refused(message.edge, str(error)))
            return
        session.down_edge, session.down_peer = message.edge, peer
        self.by_down_edge[message.edge] = session
        truth = Truth(message.edge, message.version, 0, message.tokens, message.limit)
        session.stage.attach_downstream(truth, message.end)
        if isinstance(session.stage, Stage):
            session.stage.block_tokens = message.block_tokens or None
            session.num_outcomes = message.outcomes
        plan = Plan(
            number=message.plan_number,
            chain=message.chain,
            edges=message.edges,
        )
        self.upstreams.want(session, plan)
        self._touch(session)

    def on_replan(self, message: Replan) -> None:
        """The downstream goes on with another plan. What is not for its edge is from the past."""
        session, plan = self.by_down_edge.get(message.edge), message.plan
        if session is None or plan.number < session.plan_number:
            return
        if session.member.name not in plan.chain[:-1]:
            logger.warning("a plan along %s is not for %r", plan.chain, session.member.name)
            return
        if isinstance(session.stage, Stage):
            knobs = plan.edges[plan.chain.index(session.member.name)]
            session.stage.block_tokens = knobs.patience or None
            session.member.drop_guesses(session)
            session.num_outcomes = knobs.outcomes
        self.upstreams.want(session, plan)
        self._touch(session)

    def on_detach(self, message: Detach, now: float) -> None:
        """The downstream lets go."""
        session = self.by_down_edge.pop(message.edge, None)
        if session is None:
            if message.close:
                for parked in self._parking.take_used_by(message.edge):
                    self.close(parked)
        elif message.close:
            self.close(session)
        else:
            self._park(session, message.edge, now)

    def on_peer_lost(self, peer: Peer, now: float) -> None:
        """A worker is gone: its upstreams are replaced, its downstreams' sessions parked."""
        self.upstreams.on_peer_lost(peer)
        for session in [s for s in self.by_down_edge.values() if s.down_peer == peer]:
            assert session.down_edge is not None
            del self.by_down_edge[session.down_edge]
            self._park(session, session.down_edge, now)

    def close(self, session: Session) -> None:
        """Frees the session here and above, with what earlier plans have left parked there."""
        self.upstreams.release(session, close=True)
        for edge, peer in session.parked_upstreams.values():
            self._outbox.put(peer, Detach(edge, True))
        if session.down_edge is not None:
            self.by_down_edge.pop(session.down_edge, None)
        for guest in tuple(session.guests):
            self._parking.forget(guest)
            self.close(guest)
        tell_drafted(session)
        del self.sessions[session]
        session.member.close(session)

    def expire(self, now: float) -> float | None:
        """Closes parked sessions whose lease is over; returns when the next one ends."""
        for session in self._parking.take_expired(now):
            self.close(session)
        return self._parking.next_end_s

    def _session_for(self, message: Attach) -> Session:
        """One that is parked, one that another downstream is about to let go, or a new one.

        Raises:
            SpecRouterError: no such member, no room, or a newer plan has it.
        """
        name, request = message.chain[-1], message.edge.session
        member = self._members.get(name)
        if member is None:
            raise UnavailableError(f"no member {name!r} here")
        if (parked := self._parking.take(request, name)) is not None:
            return parked
        in_use = self._session_at(name, request) if member.lives_in else None
        return self._open(member, message) if in_use is None else self._take_over(in_use, message)

    def _take_over(self, session: Session, message: Attach) -> Session:
        """What lives in its target's session is there once. A plan that drops who is between the
        two attaches it before the one that is dropped has let it go."""
        if message.plan_number < session.plan_number:
            raise UnavailableError(f"{session.member.name} is in a newer plan's chain")
        assert session.down_edge is not None
        del self.by_down_edge[session.down_edge]
        self._leave(session)
        return session

    def _session_at(self, name: str | None, request: int) -> Session | None:
        if name is None:
            return None
        same_request = (session for session in self.sessions if session.id == request)
        return next((session for session in same_request if session.member.name == name), None)

    def _open(self, member: Member, message: Attach) -> Session:
        owner = self._session_at(member.lives_in, message.edge.session)
        opening = Opening(
            message.tokens, message.prompt_tokens, message.end, message.sampling, owner
        )
        stage, slot = member.open(opening, StopIds(message.sampling.stop_token_ids))
        session = Session(
            id=message.edge.session,
            member=member,
            stage=stage,
            slot=slot,
            sampling=message.sampling,
            prompt_tokens=message.prompt_tokens,
            end=message.end,
            traffic=Traffic.of(message.sampling, message.task),
            owner=owner,
            trace=message.trace,
            span=begin_span(member.name, message.trace) if message.trace else None,
        )
        self.sessions[session] = None
        return session

    def _park(self, session: Session, edge: EdgeId, now: float) -> None:
        self._leave(session)
        self._parking.add(session, edge, now)

    def _leave(self, session: Session) -> None:
        """It drafts for nobody."""
        self.upstreams.release(session, close=False)
        session.wanted, session.edges, session.plan_number = (), (), 0
        session.stage.detach_downstream()
        session.member.drop_guesses(session)
        session.down_edge, session.down_peer = None, None
