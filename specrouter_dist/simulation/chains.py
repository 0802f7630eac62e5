"""Who drafts for whom, and the mail between sessions: the worker's part around the stages.

As in a worker, each session only knows its upstream, attaches it and hands it the rest of the
chain; a plan that leaves it its upstream is only told along the chain. What differs: a replica of
each member has to be chosen (the least loaded, or the one that still holds the request), and memory
has no end. A lookup proposes on the device of its downstream, as in a worker.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from specrouter_dist.config import EdgeKnobs, LookupMember, Plan
from specrouter_dist.simulation.clock import Action, Clock
from specrouter_dist.simulation.devices import MAX_DRAFTS, Replica
from specrouter_dist.simulation.profile import Profile
from specrouter_dist.simulation.session import Request, Session
from specrouter_dist.speculation.ending import StopIds
from specrouter_dist.speculation.lookup import LookupStage
from specrouter_dist.speculation.messages import EdgeId, Message, TokenArray, Truth
from specrouter_dist.speculation.stage import Stage

_LEASE_US = 5e6
"""How long a parked session keeps its KV, as in a worker."""
_NEVER_STOPS = StopIds(())


@dataclass(frozen=True, slots=True)
class _Attach:
    downstream: Session
    truth: Truth
    plan_number: int
    chain: tuple[str, ...]
    """Of the upstream: it is the last."""
    edges: tuple[EdgeKnobs, ...]
    below: EdgeKnobs
    """Of the edge to ``downstream``."""


class Chains:
    """The edges of all sessions.

    Args:
        profile: has the delays.
        replicas: by member.
        clock: carries the mail.
    """

    def __init__(
        self, profile: Profile, replicas: Mapping[str, Sequence[Replica]], clock: Clock
    ) -> None:
        self._replicas = replicas
        self._clock = clock
        self._num_edges = 0
        names = [member.name for member in profile.members]
        self._one_way_us = {(a, b): profile.one_way_us(a, b) for a in names for b in names}

    # -- as downstream -------------------------------------------------------------------------

    def want(self, session: Session, plan: Plan) -> None:
        """Makes ``plan`` the session's chain, unless a newer one or the same already is."""
        if plan.number < session.plan_number:
            return
        session.plan_number = plan.number
        wanted = plan.chain[: plan.chain.index(session.replica.name)]
        edges = plan.edges[: len(wanted)]
        if (wanted, edges) == (session.wanted, session.edges):
            return
        keeps_upstream = wanted[-1:] == (session.upstream,)
        if not keeps_upstream:
            self._release_upstream(session)
        session.wanted, session.edges = wanted, edges
        if keeps_upstream:
            self._replan_upstream(session, plan)
        else:
            self._attach_upstream(session)
        session.replica.device.touch(session)

    def _replan_upstream(self, session: Session, plan: Plan) -> None:
        """The upstream stays; the chain above it and all knobs are those of ``plan`` now."""
        assert session.up is not None and session.up_edge is not None
        session.num_attached = len(session.wanted)
        session.model_stage.retune_upstream(session.edges[-1])
        session.waits_since_us = None
        up = session.up.replica if isinstance(session.up, Session) else session.up
        self._send(session.replica, up, partial(self._on_replan, session, session.up_edge, plan))

    def make_whole(self, session: Session) -> None:
        """A member has come back: a chain that is shorter than wanted may have it again."""
        if session.num_attached < len(session.wanted):
            self._release_upstream(session)
            self._attach_upstream(session)
            session.replica.device.touch(session)

    def on_lost(self, session: Session, edge: EdgeId) -> None:
        """The upstream of that edge is gone: another is attached, or the session goes on alone."""
        if session.closed or session.up_edge != edge:
            return
        self._forget_upstream(session)
        self._attach_upstream(session)
        session.replica.device.touch(session)

    def _attach_upstream(self, session: Session) -> None:
        """Attaches the nearest wanted member of which a replica is alive."""
        for count in range(len(session.wanted), 0, -1):
            replica = self._choose(session, session.wanted[count - 1])
            if replica is not None:
                self._attach(session, count, replica)
                return

    def _choose(self, downstream: Session, name: str) -> Replica | None:
        """The replica that holds the request already, or the one with the least to do."""
        possible = [replica for replica in self._replicas[name] if replica.alive]
        if possible and isinstance(possible[0].member, LookupMember):
            return next(r for r in possible if r.device is downstream.replica.device)
        for session in downstream.request.sessions:
            if session.replica.name == name and not session.closed:
                return session.replica
        return min(possible, key=lambda replica: replica.num_attached, default=None)

    def _attach(self, session: Session, count: int, replica: Replica) -> None:
        self._num_edges += 1
        edge = EdgeId(session.request.id, self._num_edges, 0)
        knobs = session.edges[count - 1]
        truth = session.model_stage.attach_upstream(edge, knobs)
        session.up, session.up_edge, session.num_attached = replica, edge, count
        session.forget_waiting()
        replica.num_attached += 1
        attach = _Attach(
            downstream=session,
            truth=truth,
            plan_number=session.plan_number,
            chain=session.wanted[:count],
            edges=session.edges[: count - 1],
            below=knobs,
        )
        self._send(session.replica, replica, partial(self._on_attach, replica, attach))

    def _release_upstream(self, session: Session) -> None:
        if session.up_edge is None:
            return
        up, edge = session.up, session.up_edge
        self._forget_upstream(session)
        if isinstance(up, Session):
            self._send(session.replica, up.replica, partial(self._on_detach, up, edge))

    def _forget_upstream(self, session: Session) -> None:
        if session.up is not None:
            replica = session.up.replica if isinstance(session.up, Session) else session.up
            replica.num_attached -= 1
        session.up, session.up_edge, session.num_attached = None, None, 0
        session.forget_waiting()
        session.model_stage.detach_upstream()

    # -- as upstream ---------------------------------------------------------------------------

    def _on_attach(self, replica: Replica, attach: _Attach) -> None:
        downstream, edge = attach.downstream, attach.truth.edge
        if downstream.closed or downstream.up_edge != edge:
            return
        if not replica.alive:
            self._send(replica, downstream.replica, partial(self.on_lost, downstream, edge))
            return
        request = downstream.request
        session = replica.sessions.get(request.id)
        if session is not None and session.down is None and self._lease_is_over(session):
            self.close(session)
            session = None
        session = session or self._open(replica, request, attach.truth.tokens)
        session.stage.attach_downstream(attach.truth, request.end)
        session.draft_as_wanted(attach.below)
        session.down, downstream.up = downstream, session
        session.plan_number = -1
        plan = Plan(number=attach.plan_number, chain=attach.chain, edges=attach.edges)
        self.want(session, plan)
        replica.device.touch(session)

    def _on_replan(self, downstream: Session, edge: EdgeId, plan: Plan) -> None:
        session = downstream.up
        if downstream.up_edge != edge or not isinstance(session, Session):
            return
        if session.closed or plan.number < session.plan_number:
            return
        session.replica.preparations.drop(session)
        session.draft_as_wanted(plan.edges[plan.chain.index(session.replica.name)])
        self.want(session, plan)
        session.replica.device.touch(session)

    def _lease_is_over(self, session: Session) -> bool:
        return self._clock.now_us - session.parked_us > _LEASE_US

    def _on_detach(self, session: Session, edge: EdgeId) -> None:
        down = session.stage.down
        if session.closed or down is None or down.edge != edge:
            return
        self._release_upstream(session)
        session.replica.preparations.drop(session)
        session.wanted, session.edges = (), ()
        session.stage.detach_downstream()
        session.down, session.parked_us = None, self._clock.now_us

    # -- sessions ------------------------------------------------------------------------------

    def open_target(self, replica: Replica, request: Request) -> Session:
        """The request begins, or goes on, at a replica of the target."""
        replica.num_attached += 1
        return self._open(replica, request, request.tokens)

    def _open(self, replica: Replica, request: Request, tokens: TokenArray) -> Session:
        replica.preparations.give_way()
        session = Session(request, replica, _stage(replica, request, tokens))
        request.sessions.append(session)
        replica.sessions[request.id] = session
        return session

    def close(self, session: Session) -> None:
        """Frees the session at its replica."""
        if session.closed:
            return
        if session.up_edge is not None:
            self._forget_upstream(session)
        if session.replica.is_target:
            session.replica.num_attached -= 1
        session.closed = True
        session.request.sessions.remove(session)
        del session.replica.sessions[session.request.id]
        session.replica.ready.pop(session, None)
        session.replica.preparations.drop(session)

    def lose(self, replica: Replica) -> list[Session]:
        """The replica dies with all sessions, which are returned; those around them hear of it
        as soon as a message could have told them."""
        replica.alive = False
        lost = list(replica.sessions.values())
        told = [(s.down, s.stage.down.edge) for s in lost if s.down and s.stage.down]
        for session in lost:
            self._release_upstream(session)
            self.close(session)
        for downstream, edge in told:
            self._send(replica, downstream.replica, partial(self.on_lost, downstream, edge))
        return lost

    # -- mail ----------------------------------------------------------------------------------

    def say(self, session: Session) -> None:
        """Sends what the stage has to say."""
        for message in session.stage.flush():
            to = session.up if isinstance(message, Truth) else session.down
            if isinstance(to, Session):
                self._send(session.replica, to.replica, partial(_deliver, to, message))
            elif to is not None:
                # The attach is still under way; what was said since follows it.
                self._send(session.replica, to, partial(self._deliver_late, session, message))

    def _deliver_late(self, downstream: Session, message: Message) -> None:
        if isinstance(downstream.up, Session):
            _deliver(downstream.up, message)

    def _send(self, sender: Replica, receiver: Replica, action: Action) -> None:
        if sender.device is receiver.device:
            action()
            return
        self._clock.after(self._one_way_us[sender.name, receiver.name], action)


def _stage(replica: Replica, request: Request, tokens: TokenArray) -> Stage | LookupStage:
    """As a worker opens it."""
    if isinstance(replica.member, LookupMember):
        return LookupStage(
            tokens,
            prompt_tokens=len(request.prompt),
            end=request.end,
            min_match_tokens=replica.member.min_match_tokens,
            max_match_tokens=replica.member.max_match_tokens,
        )
    return Stage(
        tokens,
        prompt_tokens=len(request.prompt),
        end=request.end,
        ending=_NEVER_STOPS,
        max_drafts=1 if replica.is_target else MAX_DRAFTS,
    )


def _deliver(to: Session, message: Message) -> None:
    """Stages drop what is not for their present edge."""
    if to.closed:
        return
    if isinstance(message, Truth):
        to.stage.on_truth(message)
    else:
        to.model_stage.on_proposals(message)
    to.replica.device.touch(to)
