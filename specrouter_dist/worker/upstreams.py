"""What sessions have above them: attaching, detaching, losing and finding upstreams (DESIGN:
section 3).

Each session only knows its upstream. It attaches it and hands it the rest of the chain, which
does likewise. Starting, restarting, reconnecting and re-planning are the same act; but a plan that
leaves a stage its upstream is only told along the chain.
"""

import itertools
from collections.abc import Callable, Container, Iterable, Mapping

from specrouter_dist.config import Plan
from specrouter_dist.errors import LinkError
from specrouter_dist.links.address import Address, Peer
from specrouter_dist.links.control import Attach, Detach, Refused, Replan, Report, Settled
from specrouter_dist.links.hub import Hub
from specrouter_dist.speculation.messages import EdgeId
from specrouter_dist.worker.outbox import Outbox
from specrouter_dist.worker.session import Session

_NOT_FOR_DRAFTERS = {"logprobs": None, "prompt_logprobs": None, "stop": ()}


class Upstreams:
    """Of the sessions of one worker.

    Args:
        here: names of the worker's own members.
        touch: called with a session that may have work now.
    """

    def __init__(
        self,
        here: Container[str],
        hub: Hub,
        outbox: Outbox,
        touch: Callable[[Session], None],
    ) -> None:
        self.by_up_edge: dict[EdgeId, Session] = {}
        self._here = here
        self._hub = hub
        self._outbox = outbox
        self._touch = touch
        self._directory: dict[str, Address] = {}
        self._lost: set[Peer] = set()
        self._attach_numbers = itertools.count(1)

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
            self.release(session, close=False)
        session.wanted, session.edges = asked
        session.refused.clear()
        if keeps_upstream:
            self._replan(session, plan)
        else:
            self.attach(session)
        # It may have been waiting for what it need not wait for any more.
        self._touch(session)

    def attach(self, session: Session) -> None:
        """Attaches the nearest wanted member that can be had; without any the session goes on
        alone."""
        for count in range(len(session.wanted), 0, -1):
            name = session.wanted[count - 1]
            if name not in session.refused and self._attach_nth(session, count):
                return

    def release(self, session: Session, *, close: bool) -> None:
        """Lets the upstream go; it parks, or frees everything if ``close``."""
        name, edge, peer = session.upstream, session.up_edge, session.up_peer
        if name is not None and edge is not None:
            self._forget(session)
            self._outbox.put(peer, Detach(edge, close))
            if not close:
                session.parked_upstreams[name] = (edge, peer)

    def on_refused(self, message: Refused) -> None:
        """The upstream has no room: the chain is shorter."""
        session = self.by_up_edge.get(message.edge)
        if session is not None and session.upstream is not None:
            session.refused.add(session.upstream)
            self._forget(session)
            self.attach(session)
            self._touch(session)

    def set_directory(self, directory: Mapping[str, Address], sessions: Iterable[Session]) -> None:
        """Where each member of the pool is now. Shortened chains become whole again."""
        self._directory = dict(directory)
        self._lost.clear()
        for session in sessions:
            if session.num_attached < len(session.wanted):
                self.release(session, close=False)
                session.refused.clear()
                self.attach(session)
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

    def on_report(self, message: Report) -> None:
        """Counts of the levels above."""
        session = self.by_up_edge.get(message.edge)
        if session is not None:
            session.upstream_levels = message.levels
            session.upstream_device_us = message.device_us

    def on_peer_lost(self, peer: Peer) -> None:
        """A worker is gone: its members here above are replaced."""
        self._lost.add(peer)
        for session in [s for s in self.by_up_edge.values() if s.up_peer == peer]:
            self._forget(session)
            self.attach(session)
            self._touch(session)

    def _replan(self, session: Session, plan: Plan) -> None:
        """The upstream stays; the chain above it and all knobs are those of ``plan`` now."""
        assert session.up_edge is not None
        session.num_attached = len(session.wanted)
        session.model_stage.retune_upstream(session.edges[-1])
        # A wait that began under other knobs is no measure of a hop.
        session.waits_since = None
        self._outbox.put(session.up_peer, Replan(session.up_edge, plan))

    def _attach_nth(self, session: Session, count: int) -> bool:
        """Whether ``wanted[count - 1]`` could be asked to draft for the session."""
        name = session.wanted[count - 1]
        peer: Peer | None = None
        if name not in self._here:
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

    def _forget(self, session: Session) -> None:
        if session.up_edge is not None:
            del self.by_up_edge[session.up_edge]
        session.up_edge, session.up_peer, session.num_attached = None, None, 0
        session.forget_waiting()
        session.model_stage.detach_upstream()
