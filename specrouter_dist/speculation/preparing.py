"""Which sessions of a member prepare for the outcomes of a verify, and when."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Generic, Protocol, TypeVar

from specrouter_dist.speculation.forks import Draw
from specrouter_dist.speculation.outcomes import Outcomes, Verdict
from specrouter_dist.speculation.stage import Stage


class Drafting(Protocol):
    """A session of a member."""

    num_outcomes: int
    """Outcomes of a verify downstream for which its answer may be prepared."""

    @property
    def model_stage(self) -> Stage:
        """Its stage."""
        ...


SessionT = TypeVar("SessionT", bound=Drafting)


class Preparations(Generic[SessionT]):
    """The prepared answers of one member's sessions.

    Args:
        begin: what a session prepares with, when it first may.
    """

    def __init__(self, begin: Callable[[SessionT], Outcomes]) -> None:
        self._begin = begin
        self._resting: dict[SessionT, None] = {}
        """Sessions that wait for a Truth and may have something to prepare."""
        self._outcomes: dict[SessionT, Outcomes] = {}

    def wants_runner_ups(self, session: SessionT) -> bool:
        """Whether one is wanted beside each pick of the session's next step."""
        return session.num_outcomes > 0 and session.model_stage.up is None

    def note(self, session: SessionT, draws: Sequence[Draw]) -> None:
        """The session's stream grew by ``draws``."""
        if session not in self._outcomes:
            self._outcomes[session] = self._begin(session)
        self._outcomes[session].note(session.model_stage, draws)

    def rest(self, session: SessionT) -> None:
        """The session waits."""
        if session in self._outcomes:
            self._resting[session] = None

    def advance(self) -> SessionT | None:
        """One forward for a session that waits, if one can use it; which one. Only when no step is
        waiting."""
        for session in list(self._resting):
            if self._outcomes[session].advance(session.model_stage, session.num_outcomes):
                return session
            del self._resting[session]
        return None

    def answer(self, ready: Iterable[SessionT]) -> Iterator[tuple[SessionT, Verdict | None]]:
        """Extends every stream of ``ready`` whose next tokens are there; of each session, what
        became of its block."""
        if not self._outcomes:
            return
        for session in ready:
            outcomes = self._outcomes.get(session)
            if outcomes and (num_tokens := outcomes.answer(session.model_stage)):
                yield session, self.finish(session, num_ready=num_tokens)

    def finish(self, session: SessionT, *, num_ready: int = 0) -> Verdict | None:
        """The session goes on, by a step or with ``num_ready`` tokens of an answer; what became of
        its block, if it has been judged."""
        self._resting.pop(session, None)
        outcomes = self._outcomes.get(session)
        return outcomes.finish(session.model_stage, num_ready) if outcomes else None

    def drop(self, session: SessionT) -> None:
        """Frees what was prepared for the session."""
        self._resting.pop(session, None)
        if (outcomes := self._outcomes.pop(session, None)) is not None:
            outcomes.release()

    def give_way(self) -> None:
        """Closes all forks: guesses give way to sessions."""
        for outcomes in self._outcomes.values():
            outcomes.release()
