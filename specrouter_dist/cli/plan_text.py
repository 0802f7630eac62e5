"""What ``specrouter plan`` says to people, as lines of text."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from specrouter_dist.routing.traffic import Traffic

_LISTED_CANDIDATES = 8
_LISTED_OUTCOMES = 8
_LISTED_DECISIONS = 6
_LENGTH = "8"
"""Draft length at which tokens per round are shown."""

Plain = Mapping[str, Any]


def plan_text(view: Plain) -> str:
    """Of a view by ``serving.backend.describe_plan``: the choice, then what it rests on."""
    router = view["router"]
    plans = _plans(router, view["traffic"])
    return "\n".join(
        [
            f"chain: {_chain(view['chain'])}",
            f"for {_kind(view['traffic'])} requests, one alone; table {router['number']}",
            *_candidates(view["candidates"]),
            *_pairs(_of(plans["traffic"], router["pairs"])),
            *_outcomes(router),
            *_loads(plans),
            *_decisions(_of(plans["traffic"], router["decisions"])),
        ]
    )


def _plans(router: Plain, traffic: Plain) -> Plain:
    """Those of the narrowest kind that holds ``traffic``; the widest kinds are always there."""
    plans = {Traffic(**plans["traffic"]): plans for plans in router["plans"]}
    found: Plain = next(plans[kind] for kind in Traffic(**traffic).lineage() if kind in plans)
    return found


def _of(traffic: Plain, entries: Sequence[Plain]) -> list[Plain]:
    return [entry for entry in entries if entry["traffic"] == traffic]


def _loads(plans: Plain) -> Iterator[str]:
    yield f"\nplans of {_kind(plans['traffic'])} requests by how many run:"
    for load in plans["loads"]:
        yield f"  up to {load['up_to_requests']:2}: {_way(load)}"
    yield "and for one alone that agrees more or less than usual:"
    for rung in plans["loads"][0]["by_agreement"]:
        yield f"  {rung['times_usual']:4} x the usual: {_way(rung)}"


def _candidates(candidates: Sequence[Plain]) -> Iterator[str]:
    yield "\ncandidates, predicted:" if candidates else "\nno candidates: times are unknown"
    for way in candidates[:_LISTED_CANDIDATES]:
        yield f"  {way['predicted_ms_per_token']:8.3f} ms per token: {_way(way)}"
    if (more := len(candidates) - _LISTED_CANDIDATES) > 0:
        yield f"  and {more} more"


def _pairs(pairs: Sequence[Plain]) -> Iterator[str]:
    if pairs:
        yield f"\nagreement, and tokens per round of {_LENGTH}; evidence and its age:"
    for pair in pairs:
        tokens = pair["tokens_per_round"][_LENGTH]
        bias = "" if pair["bias"] is None else f"; bias of replays {pair['bias']:+.2f}"
        yield f"  {_pair(pair):24} {pair['agreement']:.2f} {tokens:5.2f}  {_evidence(pair)}{bias}"


def _outcomes(router: Plain) -> Iterator[str]:
    yield "\npredicted against measured:"
    for key, title in (
        ("us_per_token", "time per token"),
        ("tokens_per_round", "tokens per round"),
        ("tokens_per_round_by_similarity", "tokens per round, by similarity alone"),
    ):
        error = router["median_error"][key]
        known = "nothing measured yet" if error is None else f"off by {error:.0%} in the median"
        yield f"  {title}: {known}"
    for outcome in router["outcomes"]["us_per_token"][-_LISTED_OUTCOMES:]:
        predicted, measured = outcome["predicted"] / 1e3, outcome["measured"] / 1e3
        yield (
            f"  {_age(outcome['age_s']):>12}: {predicted:.3f} ms, measured {measured:.3f} in "
            f"{outcome['weight']} rounds: {outcome['of']} ({_kind(outcome['traffic'])}, "
            f"up to {outcome['up_to_requests']})"
        )


def _decisions(decisions: Sequence[Plain]) -> Iterator[str]:
    if decisions:
        yield "\nnewest decisions:"
    for decision in reversed(decisions[-_LISTED_DECISIONS:]):
        chosen = decision["chosen"]
        yield (
            f"  {_age(decision['age_s']):>12}: up to {decision['up_to_requests']}: "
            f"{_chain(decision['before'])} => {_way(chosen)}, "
            f"predicted {chosen['predicted_ms_per_token']:.3f} ms per token"
        )
        links = set(zip(chosen["chain"], chosen["chain"][1:], strict=False))
        for pair in decision["evidence"]:
            if (pair["draft"], pair["verifier"]) in links:
                yield f"{'':16}{_pair(pair)} {pair['agreement']:.2f}: then {_evidence(pair)}"


def _chain(names: Sequence[str]) -> str:
    return " -> ".join(names)


def _pair(pair: Plain) -> str:
    return f"{pair['draft']} -> {pair['verifier']}"


def _way(way: Plain) -> str:
    edges = zip(way["num_draft_tokens"], way["burst_tokens"], way["drafts_ahead"], strict=True)
    lengths = ", ".join(
        f"{length} to {burst} ahead" if ahead else str(length) for length, burst, ahead in edges
    )
    return f"{_chain(way['chain'])} [{lengths}]" if lengths else _chain(way["chain"])


def _kind(traffic: Plain) -> str:
    return f"{traffic['regime']}, {traffic['task']}" if traffic["task"] else str(traffic["regime"])


def _evidence(pair: Plain) -> str:
    parts = [
        f"{name} {backing['num_blocks']:.0f} blocks, {_age(backing['age_s'])}"
        for name, backing in (("verified", pair["chained"]), ("replayed", pair["replayed"]))
        if backing is not None
    ]
    if (alike := pair["similar"]) is not None:
        parts.append(
            f"similar {alike['score']:.2f} at {alike['num_positions']:.0f} positions of "
            f"{alike['origin']}, {_age(alike['age_s'])}"
        )
    return "; ".join(parts) or "nothing known"


def _age(seconds: float) -> str:
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit} ago"
    return f"{seconds:.0f} s ago"
