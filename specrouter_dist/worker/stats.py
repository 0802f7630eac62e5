"""What an ended request tells of itself, as plain values."""

from itertools import zip_longest
from typing import TYPE_CHECKING

from specrouter_dist.config import Plan
from specrouter_dist.routing.outline import Outline

if TYPE_CHECKING:
    from specrouter_dist.worker.session import Session

MAX_PLANS = 32
"""The newest of them are told."""


class Plans:
    """The plans that a request went with."""

    __slots__ = ("noted",)

    def __init__(self) -> None:
        self.noted: tuple[tuple[int, Outline], ...] = ()
        """Each with the round of the target after which it held."""

    def note(self, plan: Plan, num_rounds: int) -> None:
        """``plan`` holds after so many rounds. The same way under another number is no other."""
        outline = Outline.of(plan)
        if not self.noted or self.noted[-1][1] != outline:
            self.noted = (*self.noted[-MAX_PLANS + 1 :], (num_rounds, outline))


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
        "queued_us": session.queued_us,
        "plans": session.plans.noted,
        "levels": tuple(
            (lv.draft, lv.verifier, lv.proposed, lv.accepted, lv.rounds, lv.truncations)
            for lv in session.levels()
        ),
    }
