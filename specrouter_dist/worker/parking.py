"""Sessions that nobody listens to, kept with their KV under a lease."""

from dataclasses import dataclass

from specrouter_dist.speculation.messages import EdgeId
from specrouter_dist.worker.session import Session

LEASE_S = 5.0
"""How long a parked session keeps its KV. A re-plan that returns sooner pays nothing; a
downstream that died holds no memory for longer."""


@dataclass(frozen=True, slots=True)
class _Parked:
    edge: EdgeId
    """The one it was last used by."""
    lease_end_s: float


class Parking:
    """The parked sessions of a worker. A lookup may have several of one request: one below each
    member that it has drafted for."""

    def __init__(self) -> None:
        self._parked: dict[Session, _Parked] = {}

    @property
    def next_end_s(self) -> float | None:
        """When the next lease ends; None: there is none."""
        return min((parked.lease_end_s for parked in self._parked.values()), default=None)

    def add(self, session: Session, edge: EdgeId, now_s: float) -> None:
        """The lease of ``session``, last used by ``edge``, begins."""
        self._parked[session] = _Parked(edge, now_s + LEASE_S)

    def take(self, session_id: int, member: str) -> Session | None:
        """That request's session at that member, if one is here; the newest."""
        for session in reversed(self._parked):
            if (session.id, session.member.name) == (session_id, member):
                self.forget(session)
                return session
        return None

    def forget(self, session: Session) -> None:
        """It is not parked any more, if it was."""
        self._parked.pop(session, None)

    def take_used_by(self, edge: EdgeId) -> list[Session]:
        """What ``edge`` has left."""
        return self._take([one for one, parked in self._parked.items() if parked.edge == edge])

    def take_expired(self, now_s: float) -> list[Session]:
        """Sessions whose lease is over."""
        return self._take([one for one, p in self._parked.items() if p.lease_end_s <= now_s])

    def _take(self, sessions: list[Session]) -> list[Session]:
        for session in sessions:
            self.forget(session)
        return sessions
