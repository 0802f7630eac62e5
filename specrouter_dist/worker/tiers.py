"""A target behind a slim member that commits tokens (:mod:`~specrouter_dist.speculation.tiers`).

For requests that ask for it, and for nobody else: their sessions are at a host of their own, so
that those of the target know nothing of it. What their rounds achieve says nothing of rounds that
lose nothing, so nothing of it is observed.
"""

from collections.abc import Sequence

from specrouter_dist.engine.interface import Engine, Extension, Picks
from specrouter_dist.routing.observations import ForwardKey, Observations
from specrouter_dist.speculation.ending import Ending
from specrouter_dist.speculation.messages import TokenArray
from specrouter_dist.speculation.stage import Stage
from specrouter_dist.speculation.steps import Step
from specrouter_dist.speculation.tiers import TieredStage, TieredStep
from specrouter_dist.worker.member import Opening
from specrouter_dist.worker.model_host import ModelHost, slot_of
from specrouter_dist.worker.session import Session
from specrouter_dist.worker.slim import SlimHost

_Steps = list[tuple[Session, Step]]


class TieredHost(ModelHost):
    """A slim member as the last before the client, with its target behind it.

    It has the slim member's name, since what is above it in a chain is its upstream.
    """

    def __init__(self, slim: SlimHost) -> None:
        super().__init__(slim.name, slim.target.engine, is_target=True)
        self.path = (slim.name, slim.target.name)
        self.threads = slim.target.threads
        # What it runs keeps lossless sessions of the same engine waiting.
        self.counts = slim.target.counts
        self._slim = slim.slim
        # Its stages draw token by token.
        self._runs = None

    def forward(
        self, batch: Sequence[tuple[Session, Step]], observations: Observations
    ) -> list[tuple[Session, TokenArray, Picks]]:
        """One ragged batch for the target's steps and one for the slim member's."""
        of_slim: _Steps = []
        of_target: _Steps = []
        for session, step in batch:
            is_slims = isinstance(step, TieredStep) and step.by_slim
            (of_slim if is_slims else of_target).append((session, step))
        for session, step in of_slim:
            self._catch_up(session, step.start)
        return [*self._run(self.engine, of_target), *self._run(self._slim, of_slim)]

    def turn_key(self, batch: Sequence[tuple[Session, Step]]) -> ForwardKey | None:
        """Nothing compares with it."""
        return None

    def _run(self, engine: Engine, batch: _Steps) -> list[tuple[Session, TokenArray, Picks]]:
        if not batch:
            return []
        sessions = [session for session, _ in batch]
        grown = []
        all_picks = self._extend(engine, sessions, [_extension(*one) for one in batch])
        for (session, step), picks in zip(batch, all_picks, strict=True):
            new = _stage_of(session).take(picks.tokens, picks.weights)
            if step.num_picks and step.start < session.prompt_tokens:
                self._publish(session, session.prompt_tokens)
            grown.append((session, new, picks))
        return grown

    def _catch_up(self, session: Session, start: int) -> None:
        """Before it feeds from ``start`` on, the slim member takes over what the target has fed."""
        stage = _stage_of(session)
        if stage.slim_kv_len < start:
            known = stage.tokens.slice(stage.slim_kv_len, start)
            self._slim.follow(slot_of(session), stage.slim_kv_len, known)

    def _make_stage(
        self, request: Opening, tokens: TokenArray, kv_len: int, end: int, ending: Ending
    ) -> Stage:
        assert request.lossy is not None
        return TieredStage(
            tokens,
            lossy=request.lossy,
            kv_len=kv_len,
            prompt_tokens=request.prompt_tokens,
            end=end,
            ending=ending,
        )

    def _take_slot(self, request: Opening, tokens: TokenArray, end: int) -> tuple[int, int]:
        slot, kv_len = super()._take_slot(request, tokens, end)
        self._slim.join(slot, request.sampling, request.prompt_tokens)
        return slot, kv_len

    def _free_slot(self, slot: int) -> None:
        self._slim.leave(slot)
        super()._free_slot(slot)

    def _observe_wait(
        self, session: Session, step: Step, now: float, observations: Observations
    ) -> None:
        session.waits_since = None


def _stage_of(session: Session) -> TieredStage:
    stage = session.stage
    assert isinstance(stage, TieredStage)
    return stage


def _extension(session: Session, step: Step) -> Extension:
    weighed = step.weighed if isinstance(step, TieredStep) else ()
    return Extension(slot_of(session), step.start, step.tokens, step.num_picks, weighed=weighed)
