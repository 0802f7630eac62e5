"""Who drafts for whom: attaching, detaching, losing and finding upstreams (DESIGN: section 3).

Each session only knows its upstream. It attaches it and hands it the rest of the chain, which
does likewise. Starting, restarting, reconnecting and re-planning are the same act; but a plan that
leaves a stage its upstream is only told along the chain.
"""

import itertools
import logging
from collections.abc import Callable, Mapping

from specrouter_dist.config import Plan
from specrouter_dist.errors import LinkError, SpecRouterError
from specrouter_dist.links.address import Address, Peer
from specrouter_dist.links.control import Attach, Detach, Refused, Replan, Report, Settled
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

logger = logging.getLogger(__name__)

_NOT_FOR_DRAFTERS = {"logprobs": None, "prompt_logprobs": None, "stop": ()}


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
        self.by_up_edge: dict[EdgeId, Session] = {}
        self.by_down_edge: dict[EdgeId, Session] = {}
        self._members = members
        self._hub = hub
        self._outbox = outbox
        self._touch = touch
        self._directory: dict[str, Address] = {}
        self._lost: set[Peer] = set()
        self._parking = Parking()
        self._attach_numbers = itertools.count(1)

    # -- as downstream -------------------------------------------------------------------------

    def want(self, session: Session, plan: Plan) -> None:
        """Makes ``plan`` the session's chain, unless a newer one or the same already is."""
        if plan.number < session.plan_number:
            return
        wanted = plan.chain[: plan.chain.index(session.member.name)]
        asked = wanted, plan.edges[: len(wanted)]
        present = session.wanted, session.edges
        session.plan_number = plan.number
        if asked == present:
            return
        keeps_upstream = wanted[-1:] == (session.upstream,)
        if not keeps_upstream:
            self.release_upstream(session, close=False)
        session.wanted, session.edges = asked
        session.refused.clear()
        if keeps_upstream:
            self._replan_upstream(session, plan)
        else:
            self.attach_upstream(session)
        # It may have been waiting for what it need not wait for any more.
        self._touch(session)

    def attach_upstream(self, session: Session) -> None:
        """Attaches the nearest wanted member that can be had; without any the session goes on
        alone."""
        for count in range(len(session.wanted), 0, -1):
            if session.wanted[count - 1] not in session.refused and self._attach(session, count):
                return

    def release_upstream(self, session: Session, *, close: bool) -> None:
        """Lets the upstream go; it parks, or frees everything if ``close``."""
        name, edge, peer = session.upstream, session.up_edge, session.up_peer
        if name is not None and edge is not None:
            self._forget_upstream(session)
            self._outbox.put(peer, Detach(edge, close))
            if not close:
                session.parked_upstreams[name] = (edge, peer)

    def on_refused(self, message: Refused) -> None:
        """The upstream has no room: the chain is shorter."""
        session = self.by_up_edge.get(message.edge)
        if session is not None and session.upstream is not None:
            session.refused.add(session.upstream)
            self._forget_upstream(session)
            self.attach_upstream(session)
            self._touch(session)

    def set_directory(self, directory: Mapping[str, Address]) -> None:
        """Where each member of the pool is now. Shortened chains become whole again."""
        self._directory = dict(directory)
        self._lost.clear()
        for session in self.sessions:
            if session.num_attached < len(session.wanted):
                self.release_upstream(session, close=False)
                session.refused.clear()
                self.attach_upstream(session)
                self._touch(session)

    def tell_others(self, message: Settled) -> None:
        """Sends to every other worker of the pool, and to this one."""
        addresses = {address.peer: address for address in self._directory.values()}
        self._outbox.put(None, message)
        for peer, address in addresses.items():
            if address.worker != self._hub.address.worker and peer not in self._lost:
                try:
                    self._outbox.put(self._hub.connect(address), message)
                except LinkError:
                    self._lost.add(peer)

    def _replan_upstream(self, session: Session, plan: Plan) -> None:
        """The upstream stays; the chain above it and all knobs are those of ``plan`` now."""
        assert session.up_edge is not None
        session.num_attached = len(session.wanted)
        session.model_stage.retune_upstream(session.edges[-1])
        # A wait that began under other knobs is no measure of a hop.
        session.waits_since = None
        self._outbox.put(session.up_peer, Replan(session.up_edge, plan))

    def _attach(self, session: Session, count: int) -> bool:
        """Whether ``wanted[count - 1]`` could be asked to draft for the session."""
        name = session.wanted[count - 1]
        peer: Peer | None = None
        if name not in self._members:
            address = self._directory.get(name)
            if address is None or address.peer in self._lost:
                return False
            try:
                peer = self._hub.connect(address)
            except LinkError:
                self._lost.add(address.peer)
                return False
        edge = EdgeId(session.id, next(self._attach_numbers), self._hub.address.incarnation)
        truth = session.model_stage.attach_upstream(edge, session.edges[count - 1])
        session.up_edge, session.up_peer, session.num_attached = edge, peer, count
        session.drafter = name
        session.forget_waiting()
        session.parked_upstreams.pop(name, None)
        self.by_up_edge[edge] = session
        message = Attach(
            edge=edge,
            version=truth.version,
            plan_number=session.plan_number,
            chain=session.wanted[:count],
            edges=session.edges[: count - 1],
            prompt_tokens=session.prompt_tokens,
            tokens=truth.tokens,
            sampling=session.sampling.model_copy(update=_NOT_FOR_DRAFTERS),
            end=session.end,
            limit=truth.limit,
            block_tokens=session.edges[count - 1].patience,
            outcomes=session.edges[count - 1].outcomes,
            task=session.traffic.task,
            trace=session.trace,
        )
        self._outbox.put(peer, message)
        return True

    def _forget_upstream(self, session: Session) -> None:
        if session.up_edge is not None:
            del self.by_up_edge[session.up_edge]
        session.up_edge, session.up_peer, session.num_attached = None, None, 0
        session.forget_waiting()
        session.model_stage.detach_upstream()

    # -- as upstream ---------------------------------------------------------------------------

    def on_attach(self, peer: Peer | None, message: Attach) -> None:
        """Opens (or takes from the parked) the session that is to draft for ``message.edge``."""
        name = message.chain[-1]
        member = self._members.get(name)
        session = self._parking.take(message.edge.session, name)
        if session is None:
            if member is None:
                self._outbox.put(peer, Refused(message.edge, f"no member {name!r} here"))
                return
            try:
                session = self._open(member, message)
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
        self.want(session, plan)
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
        self.want(session, plan)
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

    def on_report(self, message: Report) -> None:
        """Counts of the levels above."""
        session = self.by_up_edge.get(message.edge)
        if session is not None:
            session.upstream_levels = message.levels
            session.upstream_device_us = message.device_us

    def on_peer_lost(self, peer: Peer, now: float) -> None:
        """A worker is gone: its upstreams are replaced, its downstreams' sessions parked."""
        self._lost.add(peer)
        for session in [s for s in self.by_up_edge.values() if s.up_peer == peer]:
            self._forget_upstream(session)
            self.attach_upstream(session)
            self._touch(session)
        for session in [s for s in self.by_down_edge.values() if s.down_peer == peer]:
            assert session.down_edge is not None
            del self.by_down_edge[session.down_edge]
            self._park(session, session.down_edge, now)

    def close(self, session: Session) -> None:
        """Frees the session here and above, with what earlier plans have left parked there."""
        self.release_upstream(session, close=True)
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
        self.release_upstream(session, close=False)
        session.wanted, session.edges, session.plan_number = (), (), 0
        session.stage.detach_downstream()
        session.member.drop_guesses(session)
        session.down_edge, session.down_peer = None, None
        self._parking.add(session, edge, now)
