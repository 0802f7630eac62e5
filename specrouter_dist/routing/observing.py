"""What the steps of a member's sessions say: the same in a worker and in the simulator."""

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol, TypeVar

from specrouter_dist.config import EdgeKnobs
from specrouter_dist.routing.observations import (
    ForwardKey,
    Observations,
    OutcomeKey,
    PairKey,
    WaitKey,
    context_of,
)
from specrouter_dist.routing.replay import own_text_names
from specrouter_dist.routing.traffic import Traffic
from specrouter_dist.speculation.messages import TokenArray
from specrouter_dist.speculation.outcomes import Verdict
from specrouter_dist.speculation.preparing import Drafting, Preparations
from specrouter_dist.speculation.steps import Step

_LARGEST_TIMED_ROWS = 64
"""Forwards of more rows per session are prompts; the planner asks about decoding."""


class Observed(Drafting, Protocol):
    """A session of a member."""

    wanted: tuple[str, ...]
    """Members above this one, drafter first."""
    edges: tuple[EdgeKnobs, ...]
    """``edges[i]`` is below ``wanted[i]``."""
    num_attached: int
    """The upstream is ``wanted[num_attached - 1]``; 0: none."""
    drafter_restarts: bool
    """The last round rejected a proposal of the drafter's, so what comes next was drafted after
    it."""

    @property
    def traffic(self) -> Traffic:
        """The kind of request."""
        ...

    @property
    def upstream(self) -> str | None:
        """Name of the attached upstream member."""
        ...

    @property
    def drafts_ahead(self) -> bool:
        """Whether the upstream may draft what follows a block while the block is verified."""
        ...


ObservedT = TypeVar("ObservedT", bound=Observed)


def end_step(
    member: str, session: Observed, step: Step, picks: TokenArray, seen: Observations
) -> TokenArray:
    """StepDone: the stage takes the picks, and what they say of the pair is observed.

    Returns:
        The tokens by which the stream grew.
    """
    stage = session.model_stage
    counts = stage.own_counts if step.from_own_text else stage.counts
    num_before = counts.accepted
    new = stage.on_step_done(picks)
    accepted = counts.accepted - num_before
    # While the own text is verified the drafter may be at a block that nobody wants any more.
    session.drafter_restarts = accepted < step.num_proposals and not step.from_own_text
    was_judged = len(new) > accepted or accepted == step.num_proposals
    if step.num_picks and session.upstream and was_judged:
        pair = PairKey(session.upstream, member, session.traffic)
        match_tokens = session.edges[session.num_attached - 1].match_tokens
        _observe_block(pair, match_tokens, step, accepted, seen)
    return new


def _observe_block(
    pair: PairKey, match_tokens: int, step: Step, accepted: int, seen: Observations
) -> None:
    """``match_tokens``: from so many on the verifier continues its own text; 0: never."""
    block = step.num_proposals, accepted
    if match_tokens:
        own, beside = own_text_names(pair.draft, match_tokens)
        seen.add_block(pair._replace(draft=own), *(block if step.from_own_text else (0, 0)))
        if not step.from_own_text:
            seen.add_block(pair._replace(draft=beside), *block)
    if not step.from_own_text:
        # Also while the own text is continued now and then: else what is known of the pair without
        # it would be what a few rounds long ago have said.
        seen.add_block(pair, *block)


def answer(
    member: str,
    preparations: Preparations[ObservedT],
    ready: Iterable[ObservedT],
    seen: Observations,
    touch: Callable[[ObservedT], None],
) -> bool:
    """Extends every stream whose next tokens were prepared, and touches its session; whether there
    was one."""
    is_any = False
    for session, verdict in preparations.answer(ready):
        observe_outcome(member, session, verdict, seen)
        touch(session)
        is_any = True
    return is_any


def observe_outcome(
    member: str, session: Observed, verdict: Verdict | None, seen: Observations
) -> None:
    """What became of a drafter's block; None: it has not been judged."""
    if verdict is not None:
        key = OutcomeKey(member, session.traffic, session.num_outcomes)
        seen.add_outcome(key, verdict.was_rejected, verdict.num_ready)


def wait_key(member: str, session: Observed, step: Step) -> WaitKey | None:
    """What the wait before ``step`` is to be compared with; None: nothing."""
    # The time of a block is known of drafters only: those with nobody above them. One that drafts
    # ahead has to finish what nobody wants any more.
    is_comparable = session.drafter_restarts and session.num_attached == 1
    if not is_comparable or session.drafts_ahead or step.from_own_text:
        return None
    if step.num_proposals < session.edges[0].patience:
        return None
    return WaitKey(session.wanted[0], member, step.num_proposals)


def forward_key(member: str, batch: Sequence[tuple[Observed, Step]]) -> ForwardKey | None:
    """What the time of a forward of ``batch``, and of all that is done for it, is to be compared
    with; None: nothing."""
    num_rows = sum(len(step.tokens) for _, step in batch)
    num_drafts = {step.num_drafts for _, step in batch}
    if num_rows > _LARGEST_TIMED_ROWS * len(batch) or len(num_drafts) > 1:
        return None
    beside = drafting_beside([session for session, _ in batch])
    context = context_of([step.start for _, step in batch])
    return ForwardKey(member, num_rows, len(batch), num_drafts.pop(), beside, context)


def drafting_beside(sessions: Sequence[Observed]) -> str | None:
    """The drafter that is free to draft ahead during a forward of these; None: there is none."""
    return sessions[0].upstream if len(sessions) == 1 and sessions[0].drafts_ahead else None
