"""The simulator's profile of a pool that runs: times as its router says, agreement as recorded."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import Any

import numpy as np

from specrouter_dist.config import Plan
from specrouter_dist.simulation.profile import Profile, StepTime
from specrouter_dist.simulation.recorded import Recording

_PREFILL_ROWS = 128
"""What a stage feeds at once of a prompt; beyond what the router has timed."""
_DRAFTS = 8
_SPAN_TOKENS = 16.0
"""Assumed mean length of easy and of hard stretches of text."""

Pair = tuple[str, str]
Heard = tuple[Plan, Mapping[str, Any]]
"""A plan, and what a router said right after requests had run with it."""


@dataclass(frozen=True, slots=True)
class Times:
    """What a router has measured, in microseconds."""

    forwards: Mapping[str, Mapping[int, float]]
    """By member and rows."""
    drafting: Mapping[str, Mapping[int, float]]
    """By member and tokens drawn one after the other."""
    hops: Mapping[Pair, float]
    """What a round pays for crossing between two members, there and back."""
    slowdowns: Mapping[Pair, float]
    """How much longer steps of the second take while the first drafts ahead."""

    @classmethod
    def of(cls, heard: Sequence[Heard]) -> "Times":
        """The medians of what was said of members and pairs when they had just been used."""
        return cls(
            _by_member(heard, "forward_us"),
            _by_member(heard, "drafting_us"),
            _by_pair(heard, "hops", ("draft", "verifier", "us")),
            _by_pair(heard, "slowdowns", ("beside", "member", "ratio")),
        )


def _by_member(heard: Sequence[Heard], key: str) -> dict[str, dict[int, float]]:
    found: dict[str, dict[int, list[float]]] = {}
    for plan, said in heard:
        for member in said["members"]:
            if member["name"] not in plan.chain:
                continue
            for size, us in member[key].items():
                found.setdefault(member["name"], {}).setdefault(int(size), []).append(us)
    return {
        name: {size: statistics.median(values) for size, values in sizes.items()}
        for name, sizes in found.items()
    }


def _by_pair(heard: Sequence[Heard], key: str, fields: tuple[str, str, str]) -> dict[Pair, float]:
    found: dict[Pair, list[float]] = {}
    for plan, said in heard:
        for entry in said[key]:
            first, second, value = (entry[field] for field in fields)
            if (first, second) in pairwise(plan.chain):
                found.setdefault((first, second), []).append(value)
    return {pair: statistics.median(values) for pair, values in found.items()}


def agreement_of(recordings: Iterable[Recording], first: int, second: int) -> tuple[float, float]:
    """How often two members pick the same, and the burstiness of that.

    Burstiness follows from how alike neighbours are: of two stretches one easy and one hard, with
    agreement ``a + d`` and ``a - d``, positions side by side covary by ``d ** 2`` where both lie
    in the same stretch and by its opposite where not.
    """
    same = [np.asarray(r.by_member[first]) == np.asarray(r.by_member[second]) for r in recordings]
    agreement = float(np.concatenate(same).mean())
    products = np.concatenate([(s[:-1] - agreement) * (s[1:] - agreement) for s in same])
    room = min(agreement, 1 - agreement)
    if not products.size or not room:
        return agreement, 0.0
    shift = max(0.0, float(products.mean()) / (1 - 2 / _SPAN_TOKENS)) ** 0.5
    return agreement, min(1.0, shift / room)


def runner_up_agreement_of(recordings: Iterable[Recording], first: int, second: int) -> float:
    """How often the runner-up of the first is the pick of the second, where their picks differ."""
    are_right = [
        draw.runner_up == pick
        for recording in recordings
        for draw, pick in zip(recording.draws[first], recording.by_member[second], strict=True)
        if draw.token != pick
    ]
    return statistics.fmean(are_right) if are_right else 0.0


def make_profile(
    name: str,
    times: Times,
    recordings: Sequence[Recording],
    devices: Mapping[str, str],
) -> Profile:
    """The profile of a whole pool.

    Args:
        devices: where each model runs, in the pool's order.
    """
    names = list(devices)
    members: list[dict[str, object]] = [
        {
            "name": member,
            "device": devices[member],
            "step": {"table_ms": _table_ms(times.forwards[member])},
            # Of a target that draws one token in a step nothing else is known.
            "draft_token_ms": _draft_token_us(times.drafting[member]) / 1e3 or None,
        }
        for member in names
    ]
    members[-1]["role"] = "target"
    return Profile.model_validate(
        {
            "name": name,
            "description": "Times and agreement measured on the pool while it ran.",
            "members": members,
            "agreements": _agreements(recordings, names),
            "span_tokens": _SPAN_TOKENS,
            "hop_us": statistics.fmean(times.hops.values()) / 2 if times.hops else 0.0,
            "hops": [
                {"between": pair, "hop_us": us / 2}
                for pair, us in times.hops.items()
                if set(pair) <= set(names)
            ],
            "workload": {
                "num_requests": 100,
                "concurrency": 1,
                "prompt_tokens": round(statistics.fmean(len(r.start) for r in recordings)),
                "output_tokens": round(statistics.fmean(r.num_output_tokens for r in recordings)),
            },
        }
    )


def _agreements(recordings: Sequence[Recording], names: Sequence[str]) -> list[dict[str, object]]:
    """Of all pairs."""
    pairs = list(combinations(range(len(names)), 2))
    found = [agreement_of(recordings, *pair) for pair in pairs]
    # One for all: an easy stretch of text is easy for every pair.
    burstiness = statistics.fmean(bursty for _, bursty in found) if found else 0.0
    return [
        {
            "draft": names[i],
            "verifier": names[k],
            "agreement": same,
            "burstiness": burstiness,
            "runner_up_agreement": runner_up_agreement_of(recordings, i, k),
        }
        for (i, k), (same, _) in zip(pairs, found, strict=True)
    ]


def for_plan(profile: Profile, times: Times, plan: Plan) -> Profile:
    """The profile as the members of one plan find it.

    The first one only drafts, or is a target alone that draws several tokens in a step, and the
    router times that by itself; and a step is slower while the next block, or what may come after
    this one, is drafted beside it.
    """
    slower = {
        verifier: times.slowdowns.get((draft, verifier), 1.0)
        for (draft, verifier), knobs in zip(pairwise(plan.chain), plan.edges, strict=True)
        if knobs.drafts_ahead or knobs.outcomes
    }
    members = []
    for member in profile.members:
        table_ms = member.step.table_ms
        if member.name == plan.chain[0]:
            more_ms = times.drafting[member.name][1] / 1e3 - table_ms[1]
            table_ms = {rows: ms + more_ms for rows, ms in table_ms.items()}
        factor = slower.get(member.name, 1.0)
        table_ms = {rows: ms * factor for rows, ms in table_ms.items()}
        members.append(member.model_copy(update={"step": StepTime(table_ms=table_ms)}))
    # Not validated: the plan may name a lookup.
    return profile.model_copy(update={"members": tuple(members), "plan": plan})


def _table_ms(forwards_us: Mapping[int, float]) -> dict[int, float]:
    """With the time of a piece of a prompt, on the slope of the whole curve."""
    first, *_, last = sorted(forwards_us)
    slope_us = max(0.0, (forwards_us[last] - forwards_us[first]) / (last - first))
    prefill_us = forwards_us[last] + slope_us * (_PREFILL_ROWS - last)
    return {rows: us / 1e3 for rows, us in forwards_us.items()} | {_PREFILL_ROWS: prefill_us / 1e3}


def _draft_token_us(drafting_us: Mapping[int, float]) -> float:
    return (drafting_us[_DRAFTS] - drafting_us[1]) / (_DRAFTS - 1)
