"""A member that is a model: its engine, its sessions that may have work, and their forwards."""

import time
from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from specrouter_dist.engine.interface import Engine, Extension, Picks
from specrouter_dist.routing.doubt import Lateness
from specrouter_dist.routing.observations import ForwardKey, Observations
from specrouter_dist.routing.observing import (
    answer,
    drafting_beside,
    end_step,
    forward_key,
    observe_outcome,
    wait_key,
)
from specrouter_dist.speculation.ending import Ending
from specrouter_dist.speculation.messages import TOKEN_TYPECODE, TokenArray
from specrouter_dist.speculation.odds import Odds
from specrouter_dist.speculation.outcomes import Outcomes
from specrouter_dist.speculation.preparing import Preparations
from specrouter_dist.speculation.runs import Runs
from specrouter_dist.speculation.stage import Stage
from specrouter_dist.speculation.steps import MOST_BATCH_TOKENS, Step
from specrouter_dist.worker.forks import EngineForks, draws_of
from specrouter_dist.worker.member import Opening
from specrouter_dist.worker.session import Session
from specrouter_dist.worker.threads import Threads, kind_of

MAX_DRAFTS = 16
"""Most tokens that a drafter draws in one step before it looks at its mail."""


@dataclass(slots=True)
class Counts:
    """Of the sessions of an engine, whichever host they are at."""

    num_open: int = 0
    num_prefix_queries: int = 0
    """Tokens that were looked for in the engine's prefix cache."""
    num_prefix_hits: int = 0
    """Of these, those that were there."""


class ModelHost:
    """A member that is a model on the worker's device."""

    lives_in: str | None = None

    def __init__(self, name: str, engine: Engine, *, is_target: bool) -> None:
        self.name = name
        self.path: tuple[str, ...] = (name,)
        """Members that a session's tokens pass here, its own verifier last."""
        self.engine = engine
        self.is_target = is_target
        self.ready: dict[Session, None] = {}
        """Sessions that something has happened to since they last had nothing to do."""
        self.preparations = Preparations(self._begin_preparing)
        self._lateness = Lateness()
        """Of what is waited for."""
        self._odds: dict[str, Odds] = {}
        """By sampling regime."""
        self._runs = Runs() if is_target else None
        self.threads = Threads()
        """Of the CPU, for its forwards."""
        self.counts = Counts()

    def open(self, request: Opening, ending: Ending) -> tuple[Stage, int]:
        """Reserves a slot."""
        self.give_way()
        end = min(request.end, self.engine.info.context_tokens)
        tokens = array(TOKEN_TYPECODE, request.tokens)
        slot, kv_len = self._take_slot(request, tokens, end)
        self.counts.num_open += 1
        return self._make_stage(request, tokens, kv_len, end, ending), slot

    def give_way(self) -> None:
        """Guesses give way to sessions, for the room that they take."""
        self.preparations.give_way()

    def close(self, session: Session) -> None:
        """Frees the session's slot and KV blocks; what they hold is left to later sessions."""
        self.ready.pop(session, None)
        self.drop_guesses(session)
        self._publish(session, session.end)
        self.counts.num_open -= 1
        self._free_slot(slot_of(session))

    def drop_guesses(self, session: Session) -> None:
        """Frees what was prepared for the session."""
        self.preparations.drop(session)

    def answer(self, observations: Observations, touch: Callable[[Session], None]) -> bool:
        """Extends every stream whose next tokens were prepared, and touches its session; whether
        there was one."""
        return answer(self.name, self.preparations, self.ready, observations, touch)

    def prepare(self) -> bool:
        """One forward for what a session may have to answer; whether there was one."""
        started = time.perf_counter()
        session = self.preparations.advance()
        if session is not None:
            session.device_us += (time.perf_counter() - started) * 1e6
        return session is not None

    def take_steps(self, now: float, observations: Observations) -> list[tuple[Session, Step]]:
        """Starts a step of every session that has one, as far as a batch goes; the others wait or
        rest."""
        if self._runs is not None:
            self._runs.allow([session.model_stage for session in self.ready])
        batch: list[tuple[Session, Step]] = []
        num_tokens = 0
        for session in list(self.ready):
            if num_tokens >= MOST_BATCH_TOKENS:
                self._put_last(taken for taken, _ in batch)
                break
            step = session.model_stage.next_step()
            if step is not None:
                num_tokens += len(step.tokens)
                session.deadline = None
                verdict = self.preparations.finish(session)
                observe_outcome(self.name, session, verdict, observations)
                self._observe_wait(session, step, now, observations)
                batch.append((session, step))
                continue
            del self.ready[session]
            self.preparations.rest(session)
            wait_ms = session.model_stage.wait_ms
            if wait_ms is None:
                session.deadline = None
            elif session.deadline is None:
                session.deadline = now + wait_ms / 1e3
                session.waits_since = now
        return batch

    def _put_last(self, sessions: Iterable[Session]) -> None:
        """Those that this batch has no room for are the first of the next."""
        for session in sessions:
            self.ready[session] = self.ready.pop(session)

    def forward(
        self, batch: Sequence[tuple[Session, Step]], observations: Observations
    ) -> list[tuple[Session, TokenArray, Picks]]:
        """Runs the steps as one ragged batch; returns by what each stream grew."""
        sessions = [session for session, _ in batch]
        extensions = [host_of(session).extension(session, step) for session, step in batch]
        all_picks = self._extend(self.engine, sessions, extensions)
        return [
            (session, host_of(session).end(session, step, picks, observations), picks)
            for (session, step), picks in zip(batch, all_picks, strict=True)
        ]

    def extension(self, session: Session, step: Step) -> Extension:
        """What a step asks of the engine."""
        return Extension(
            slot_of(session),
            step.start,
            step.tokens,
            step.num_picks,
            step.num_drafts,
            num_runner_ups=int(self.preparations.wants_runner_ups(session)),
            followers=_followers(session, step),
        )

    def end(
        self, session: Session, step: Step, picks: Picks, observations: Observations
    ) -> TokenArray:
        """A step of one of its sessions is done; returns by what the stream grew."""
        stage = session.model_stage
        new = end_step(self.name, session, step, picks.tokens, observations)
        if picks.runner_ups:
            # A Truth may have been first with some of them.
            skipped = len(stage.tokens) - len(new) - step.first_pick
            self.preparations.note(session, draws_of(picks, skipped, len(new)))
        if step.num_picks and step.start < session.prompt_tokens:
            # The prompt has just been fed: others that begin alike need not wait for the end.
            self._publish(session, session.prompt_tokens)
        if stage.kv_len < step.start + len(step.tokens):
            for guest in session.guests:
                guest.lose_cache(stage.kv_len)
        return new

    def _extend(
        self, engine: Engine, sessions: Sequence[Session], extensions: Sequence[Extension]
    ) -> list[Picks]:
        """One forward, whose time is shared by its sessions."""
        kind = kind_of(
            sum(len(extension.tokens) for extension in extensions),
            max(extension.num_drafts for extension in extensions),
        )
        is_alone = drafting_beside(sessions) is None
        engine.set_threads(self.threads.begin(kind, is_alone=is_alone))
        started = time.perf_counter()
        all_picks = engine.extend(extensions)
        elapsed_us = (time.perf_counter() - started) * 1e6
        self.threads.end(elapsed_us)
        if self._runs is not None and not self.threads.was_trial:
            self._runs.note(extensions, elapsed_us)
        for session in sessions:
            session.device_us += elapsed_us / len(sessions)
        return all_picks

    def _make_stage(
        self, request: Opening, tokens: TokenArray, kv_len: int, end: int, ending: Ending
    ) -> Stage:
        return Stage(
            tokens,
            kv_len=kv_len,
            prompt_tokens=request.prompt_tokens,
            end=end,
            ending=ending,
            max_drafts=1 if self.is_target else MAX_DRAFTS,
        )

    def _take_slot(self, request: Opening, tokens: TokenArray, end: int) -> tuple[int, int]:
        """A slot of the engine, and how many of ``tokens`` it holds already."""
        slot = self.engine.open(request.sampling, request.prompt_tokens, end)
        # What is not fed has no logits.
        if request.sampling.prompt_logprobs is not None:
            return slot, 0
        kv_len = self.engine.reuse(slot, tokens)
        self.counts.num_prefix_queries += len(tokens)
        self.counts.num_prefix_hits += kv_len
        return slot, kv_len

    def _free_slot(self, slot: int) -> None:
        self.engine.close(slot)

    def _begin_preparing(self, session: Session) -> Outcomes:
        return Outcomes(
            EngineForks(self.engine, slot_of(session)),
            self._odds.setdefault(session.traffic.regime, Odds()),
            stop_ids=frozenset(session.sampling.stop_token_ids),
            end=min(session.end, self.engine.info.context_tokens),
        )

    def _publish(self, session: Session, end: int) -> None:
        """``end``: where what may still be taken back begins."""
        stage = session.model_stage
        self.engine.publish(slot_of(session), stage.tokens.slice(0, min(stage.kv_len, end)))

    def _observe_wait(
        self, session: Session, step: Step, now: float, observations: Observations
    ) -> None:
        since, session.waits_since = session.waits_since, None
        # Among others it waits its turn.
        if since is None or self.counts.num_open > 1:
            return
        wait_us, key = (now - since) * 1e6, wait_key(self.name, session, step)
        # A block that is very late is not waited for to its end: such waits cannot be compared.
        if self._lateness.is_change(wait_us, is_usual=key is not None):
            observations.is_urgent = True
            # It would blur what is new.
            observations.waits.clear()
        if key is not None:
            observations.add_wait(key, wait_us)

    def turn_key(self, batch: Sequence[tuple[Session, Step]]) -> ForwardKey | None:
        """What the time of a forward of ``batch``, and of all that the engine thread does for it,
        is to be compared with; None: nothing."""
        if any(_followers(session, step) for session, step in batch):
            return None
        return forward_key(self.name, batch)


def _followers(session: Session, step: Step) -> Sequence[int]:
    """Tokens of the prompt behind those that are fed, where their log-probabilities are wanted."""
    if session.sampling.prompt_logprobs is None or step.start + 1 >= session.prompt_tokens:
        return ()
    end = min(step.start + len(step.tokens) + 1, session.prompt_tokens)
    return session.model_stage.tokens.slice(step.start + 1, end)


def slot_of(session: Session) -> int:
    """The engine's slot of a model's session."""
    assert session.slot is not None
    return session.slot


def host_of(session: Session) -> ModelHost:
    """The member of a model's session."""
    assert isinstance(session.member, ModelHost)
    return session.member
