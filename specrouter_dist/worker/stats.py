"""What an ended request tells of itself, as plain values."""

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from math import ceil
from statistics import fmean
from typing import TYPE_CHECKING

from specrouter_dist.config import Plan
from specrouter_dist.routing.outline import Outline
from specrouter_dist.speculation.tiers import TierCounts, TieredStage

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
        "chain": session.chain,
        "attached": (*session.wanted[: session.num_attached], *session.member.path),
        "device_us": session.total_device_us(),
        "histograms": _together(stage.counts.histograms, stage.own_counts.histograms),
        "num_rounds": session.num_rounds,
        "queued_us": session.queued_us,
        "prefill_us": session.prefill_us,
        "plans": session.plans.noted,
        "levels": tuple(
            (lv.draft, lv.verifier, lv.proposed, lv.accepted, lv.rounds, lv.truncations)
            for lv in session.levels()
        ),
        **({"tiers": _tiers(stage.tiers)} if isinstance(stage, TieredStage) else {}),
    }


def _together(
    first: Mapping[int, Sequence[int]], second: Mapping[int, Sequence[int]]
) -> tuple[tuple[int, tuple[int, ...]], ...]:
    """The sums of both, by the number of proposals."""
    return tuple(
        (num, tuple(map(sum, zip_longest(first.get(num, ()), second.get(num, ()), fillvalue=0))))
        for num in sorted(first.keys() | second.keys())
    )


def _tiers(counts: TierCounts) -> dict[str, object]:
    """Of a lossy request, as :class:`~specrouter_dist.serving.results.TierMetrics` has them."""
    overshoots = sorted(counts.overshoots)
    num_checked = len(overshoots)
    return {
        "accepted": counts.accepted,
        "slim": counts.slim,
        "escalated": counts.escalated,
        "num_escalations": counts.num_escalations,
        "num_confirmed": counts.num_confirmed,
        "num_checked": num_checked,
        "num_disagreements": counts.num_disagreements,
        "overshoot_mean": fmean(overshoots) if overshoots else None,
        "overshoot_p99": overshoots[ceil(0.99 * num_checked) - 1] if overshoots else None,
        "overshoot_max": overshoots[-1] if overshoots else None,
    }
