"""Which sessions of a member prepare for the outcomes of a verify, and when."""

import time
from collections.abc import Callable, Iterable

from specrouter_dist.engine.interface import Engine, Picks
from specrouter_dist.routing.observations import Observations, OutcomeKey
from specrouter_dist.speculation.messages import TokenArray
from specrouter_dist.worker.odds import Odds
from specrouter_dist.worker.outcomes import Outcomes
from specrouter_dist.worker.session import Session


class Preparations:
    """The prepared answers of one member's sessions.

    Args:
        member: its name.
        engine: its engine.
    """

    def __init__(self, member: str, engine: Engine) -> None:
        self._member = member
        self._engine = engine
        self._resting: dict[Session, None] = {}
        """Sessions that wait for a Truth and may have something to prepare."""
        self._outcomes: dict[Session, Outcomes] = {}
        self._odds: dict[str, Odds] = {}
        """By sampling regime."""

    def num_runner_ups(self, session: Session) -> int:
        """How many are wanted beside the picks of the session's next step."""
        return int(session.num_outcomes > 0 and session.model_stage.up is None)

    def note(self, session: Session, new: TokenArray, picks: Picks) -> None:
        """The session's stream grew by ``new``, the first of ``picks``."""
        if picks.runner_ups:
            outcomes = self._outcomes.get(session) or self._new(session)
            outcomes.note(session.model_stage, new, picks)

    def rest(self, session: Session) -> None:
        """The session waits."""
        if session in self._outcomes:
            self._resting[session] = None

    def advance(self) -> bool:
        """One forward for a session that waits, if one can use it; whether there was one. Only
        when no step is waiting."""
        for session in list(self._resting):
            assert session.slot is not None
            started, outcomes = time.perf_counter(), self._outcomes[session]
            if outcomes.advance(session.model_stage, session.slot, session.num_outcomes):
                session.device_us += (time.perf_counter() - started) * 1e6
                return True
            del self._resting[session]
        return False

    def answer(
        self,
        ready: Iterable[Session],
        observations: Observations,
        touch: Callable[[Session], None],
    ) -> bool:
        """Extends every stream of ``ready`` whose next tokens are there, and touches its session;
        whether there was one."""
        is_any = False
        for session in ready:
            outcomes = self._outcomes.get(session)
            if outcomes and (num_tokens := outcomes.answer(session.model_stage)):
                self.finish(session, observations, num_ready=num_tokens)
                touch(session)
                is_any = True
        return is_any

    def finish(self, session: Session, observations: Observations, *, num_ready: int = 0) -> None:
        """The session goes on, by a step or with ``num_ready`` tokens of an answer."""
        self._resting.pop(session, None)
        outcomes = self._outcomes.get(session)
        verdict = outcomes and outcomes.finish(session.model_stage, num_ready)
        if verdict:
            key = OutcomeKey(self._member, session.traffic, session.num_outcomes)
            observations.add_outcome(key, verdict.was_rejected, verdict.num_ready)

    def drop(self, session: Session) -> None:
        """Frees what was prepared for the session."""
        self._resting.pop(session, None)
        if (outcomes := self._outcomes.pop(session, None)) is not None:
            outcomes.release()

    def give_way(self) -> None:
        """Frees all slots: guesses give way to sessions."""
        for outcomes in self._outcomes.values():
            outcomes.release()

    def _new(self, session: Session) -> Outcomes:
        self._outcomes[session] = outcomes = Outcomes(
            self._engine,
            self._odds.setdefault(session.traffic.regime, Odds()),
            stop_ids=frozenset(session.sampling.stop_token_ids),
            end=min(session.end, self._engine.info.context_tokens),
        )
        return outcomes
