"""What the router knows, has decided and has got right, as plain values for people and JSON.

Bounded: of what grows with use only the newest, or what has most behind it, is listed. Times are in
the unit that a key ends in; ages are never negative, whatever clocks do.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from heapq import nsmallest
from itertools import islice
from typing import Any

from specrouter_dist.routing.evidence import Grounds
from specrouter_dist.routing.journal import Decision, Outcome
from specrouter_dist.routing.observations import OutcomeCounts, OutcomeKey, PairKey
from specrouter_dist.routing.outline import Outline
from specrouter_dist.routing.pace import PaceTable
from specrouter_dist.routing.planner import Candidate, to_plan
from specrouter_dist.routing.plans import LOADS, Ladder, Rung
from specrouter_dist.routing.router import Router
from specrouter_dist.routing.state import LatencyState
from specrouter_dist.routing.traffic import Traffic

LENGTHS = (1, 2, 4, 8, 16)
"""Draft lengths at which expected tokens per round are listed."""
_NUM_ROWS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 16, 17)
"""Rows at which the time of a forward is listed."""
_MOST_PAIRS = 256
_MOST_PACES = 128
_MOST_HOPS = 256
_MOST_DECISIONS = 32
_MOST_OUTCOMES = 200


def explain(router: Router, now_s: float) -> dict[str, Any]:
    """Everything about ``router`` at ``now_s`` of its clock."""
    journal = router.journal
    return {
        "number": router.number,
        "num_refused": router.num_refused,
        "target": router.members[-1],
        "plans": [_kind(router, kind) for kind in router.table.ladders],
        "context_tokens": router.latency.context_tokens,
        "members": [_member(router, member) for member in router.members],
        **_crossings(router.latency.state()),
        "pairs": _pairs(router, now_s),
        "places_of_agreement": {of.value: at for of, at in router.agreement.places.items()},
        "prepared": [_prepared(key, counts) for key, counts in router.prepared.items()],
        "paces": _paces(router.paces),
        "decisions": [_decision(one, now_s) for one in _newest(journal.decisions, _MOST_DECISIONS)],
        "outcomes": {
            "us_per_token": _outcomes(journal.paces, now_s),
            "tokens_per_round": _outcomes(journal.agreements, now_s),
            "tokens_per_round_by_similarity": _outcomes(journal.similarities, now_s),
        },
        "median_error": {
            "us_per_token": median_error(journal.paces),
            "tokens_per_round": median_error(journal.agreements),
            "tokens_per_round_by_similarity": median_error(journal.similarities),
        },
    }


def median_error(outcomes: Iterable[Outcome]) -> float | None:
    """Median of the predictions' errors, as shares of what was measured, each outcome counted by
    the rounds behind it; None: nothing has been measured."""
    ordered = sorted(outcomes, key=lambda outcome: outcome.error)
    half = sum(outcome.weight for outcome in ordered) / 2
    below = 0.0
    for outcome in ordered:
        below += outcome.weight
        if below >= half:
            return outcome.error
    return None


def _newest(entries: Sequence[Any], count: int) -> list[Any]:
    """The newest of those that are appended in time, the newest last."""
    return list(islice(entries, max(0, len(entries) - count), None))


def _age_s(at_s: float, now_s: float) -> float:
    return max(0.0, now_s - at_s)


# -- what is planned -------------------------------------------------------------------------------


def _kind(router: Router, kind: Traffic) -> dict[str, Any]:
    ladders = router.table.of(kind)
    loads = [
        {"up_to_requests": load, **_ladder(ladder), **_weighed(router, kind, load)}
        for load, ladder in zip(LOADS, ladders, strict=True)
    ]
    return {"traffic": kind._asdict(), "loads": loads}


def _ladder(ladder: Ladder) -> dict[str, Any]:
    rungs = sorted(ladder.rungs, key=lambda rung: rung.scale)
    return {**Outline.of(ladder.plan).to_json(), "by_agreement": [_rung(rung) for rung in rungs]}


def _rung(rung: Rung) -> dict[str, Any]:
    return {"times_usual": rung.scale, **Outline.of(rung.plan).to_json()}


def _weighed(router: Router, kind: Traffic, load: int) -> dict[str, Any]:
    return {"candidates": [as_plain(way) for way in router.weighed(kind, load)]}


def as_plain(way: Candidate) -> dict[str, Any]:
    """A chain that may be chosen."""
    return {
        **Outline.of(to_plan(way, number=0)).to_json(),
        "predicted_ms_per_token": way.predicted_us / 1e3,
        "device_ms_per_token": way.devices_us / 1e3,
    }


# -- what is known ---------------------------------------------------------------------------------


def _member(router: Router, member: str) -> dict[str, Any]:
    """Times at the typical context; empty for a member without a model, or not yet profiled."""
    latency = router.latency
    forwards = {str(rows): latency.forward_us(member, rows) for rows in _NUM_ROWS}
    drafting = {str(tokens): latency.drafting_us(member, tokens) for tokens in LENGTHS}
    return {
        "name": member,
        "forward_us": {rows: us for rows, us in forwards.items() if us is not None},
        "drafting_us": {tokens: us for tokens, us in drafting.items() if us is not None},
        "per_context_token_us": latency.per_context_token_us(member),
    }


def _crossings(latency: LatencyState) -> dict[str, list[dict[str, Any]]]:
    """What members that work together add to each other's times."""
    return {
        "hops": [
            {"draft": hop.draft, "verifier": hop.verifier, "us": hop.level.value}
            for hop in islice(latency.hops, _MOST_HOPS)
        ],
        "slowdowns": [
            {"beside": each.beside, "member": each.member, "ratio": each.ratio.value}
            for each in islice(latency.slowdowns, _MOST_HOPS)
        ],
    }


def _prepared(key: OutcomeKey, counts: OutcomeCounts) -> dict[str, Any]:
    return {
        "draft": key.draft,
        "traffic": key.traffic._asdict(),
        "num_outcomes": key.num_outcomes,
        **_judged("whole", counts, 0),
        **_judged("rejected", counts, 1),
    }


def _judged(name: str, counts: OutcomeCounts, which: int) -> dict[str, float]:
    num_blocks, num_ready = counts.num_blocks[which], counts.num_ready[which]
    return {
        f"num_{name}": num_blocks,
        f"share_of_{name}_ready": num_ready / max(1, num_blocks),
        f"tokens_per_ready_{name}": counts.num_tokens[which] / max(1, num_ready),
    }


def _paces(paces: PaceTable) -> list[dict[str, Any]]:
    """Those of which most is known; not what the machine does to all."""
    return [
        {
            "chain": list(pace.manner.chain),
            "is_ahead": pace.manner.is_ahead,
            "num_sessions": pace.num_sessions,
            "ratio": paces.ratio(pace.manner, pace.num_sessions),
        }
        for pace in nsmallest(_MOST_PACES, paces.state(), lambda p: p.variance)
        if pace.manner.chain
    ]


def _pairs(router: Router, now_s: float) -> list[dict[str, Any]]:
    """Those with the newest evidence, in the order of their names."""
    return [
        _pair(router, key, router.agreement.grounds(key, now_s))
        for key in sorted(router.agreement.newest(_MOST_PAIRS))
    ]


def _pair(router: Router, key: PairKey, grounds: Grounds) -> dict[str, Any]:
    tokens = router.agreement.curve(key).tokens
    expected = {str(length): tokens[length] for length in LENGTHS}
    return {**_grounds(grounds), "tokens_per_round": expected}


def _grounds(grounds: Grounds) -> dict[str, Any]:
    return {**asdict(grounds), "traffic": grounds.traffic._asdict(), "bias": grounds.bias}


# -- what was decided, and what came of it ---------------------------------------------------------


def _decision(decision: Decision, now_s: float) -> dict[str, Any]:
    return {
        "age_s": _age_s(decision.at_s, now_s),
        "traffic": decision.traffic._asdict(),
        "up_to_requests": decision.num_sessions,
        "number": decision.number,
        "before": list(decision.before),
        "chosen": as_plain(decision.chosen),
        "candidates": [as_plain(way) for way in decision.candidates],
        "evidence": [_grounds(grounds) for grounds in decision.grounds],
    }


def _outcomes(outcomes: Sequence[Outcome], now_s: float) -> list[dict[str, Any]]:
    return [_outcome(outcome, now_s) for outcome in _newest(outcomes, _MOST_OUTCOMES)]


def _outcome(outcome: Outcome, now_s: float) -> dict[str, Any]:
    return {
        "of": outcome.of,
        "traffic": outcome.traffic._asdict(),
        "up_to_requests": outcome.num_sessions,
        "age_s": _age_s(outcome.at_s, now_s),
        "predicted": outcome.predicted,
        "measured": outcome.measured,
        "weight": outcome.weight,
    }
