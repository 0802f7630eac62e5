"""What an ended request tells of itself, as plain values."""

from itertools import zip_longest
from typing import TYPE_CHECKING

from specrouter_dist.config import Plan

if TYPE_CHECKING:
    from specrouter_dist.worker.session import Session

MAX_PLANS = 32
"""The newest of them are told."""

PlainPlan = tuple[
    int, tuple[str, ...], tuple[int, ...], tuple[int, ...], tuple[bool, ...], tuple[int, ...]
]
"""The round from which on; chain; by edge, lengths of blocks, what is taken at most, whether blocks
are drafted ahead, and from how many matching tokens on the verifier continues its own text."""


class Plans:
    """The plans that a request went with."""

    __slots__ = ("noted",)

    def __init__(self) -> None:
        self.noted: tuple[PlainPlan, ...] = ()

    def note(self, plan: Plan, num_rounds: int) -> None:
        """``plan`` holds after so many rounds. The same way under another number is no other."""
        edges = plan.edges
        plain: PlainPlan = (
            num_rounds,
            plan.chain,
            tuple(edge.patience for edge in edges),
            tuple(edge.burst for edge in edges),
            tuple(edge.drafts_ahead for edge in edges),
            tuple(edge.match_tokens for edge in edges),
        )
        if not self.noted or self.noted[-1][1:] != plain[1:]:
            self.noted = (*self.noted[-MAX_PLANS + 1 :], plain)


def stats_of(session: "Session") -> dict[str, object]:
    """The counters of a request whose target's session this is."""
    stage = session.model_stage
    return {
        "chain": (*session.wanted, session.member.name),
        "attached": (*session.wanted[: session.num_attached], session.member.name),
        "device_us": session.total_device_us(),
        "histogram": tuple(
            map(
                sum,
                zip_longest(
                    stage.counts.accepted_histogram,
                    stage.own_counts.accepted_histogram,
                    fillvalue=0,
                ),
            )
        ),
        "num_rounds": session.num_rounds,
        "plans": session.plans.noted,
        "levels": tuple(
            (lv.draft, lv.verifier, lv.proposed, lv.accepted, lv.rounds, lv.truncations)
            for lv in session.levels()
        ),
    }
