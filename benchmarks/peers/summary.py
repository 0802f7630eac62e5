"""What came of the passes, as plain values for JSON."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from benchmarks.peers.lines import Answer
from benchmarks.peers.passes import Measured
from benchmarks.peers.settings import ALONE, AUTO, OURS
from benchmarks.statistics import median_interval

_PERCENTILES = (50, 95, 99)


def summarise(rows: Sequence[Measured]) -> dict[str, Any]:
    """One temperature: every arm's row, and what the router's choice gains."""
    return {
        "arms": [summarise_arm(row, rows[0]) for row in rows],
        "ratios": ratios(rows),
    }


def summarise_arm(row: Measured, reference: Measured) -> dict[str, Any]:
    """Speed, latency, acceptance, cost; ``reference``: whose texts are compared with."""
    answers = [answer for one_pass in row.answers for answer in one_pass]
    num_tokens = sum(len(answer.token_ids) for answer in answers)
    pairs = zip(row.answers[-1], reference.answers[-1], strict=True)
    return {
        "arm": row.arm.name,
        "system": row.arm.system,
        "tokens_per_second": asdict(median_interval(row.speeds())),
        "tokens_per_second_by_pass": row.speeds(),
        "time_to_first_token_ms": percentiles([a.time_to_first_token_ms for a in answers]),
        "time_per_output_token_ms": percentiles(times_per_output_token_ms(answers)),
        "draft_acceptance_rate": acceptance_rate(answers),
        "cpu_ms_per_token": 1e3 * sum(row.cpu_s) / num_tokens,
        "rss_mib": row.rss_bytes / 2**20,
        "idle_cores_of_others": max(row.idle_share),
        "num_tokens_per_pass": num_tokens / len(row.answers),
        "num_prompts": len(row.answers[-1]),
        "num_differing": sum(a.token_ids != b.token_ids for a, b in pairs),
    }


def times_per_output_token_ms(answers: Sequence[Answer]) -> list[float]:
    """Of each output's tokens behind its first; outputs of one token have none."""
    return [
        (answer.total_ms - answer.time_to_first_token_ms) / (len(answer.token_ids) - 1)
        for answer in answers
        if len(answer.token_ids) > 1
    ]


def acceptance_rate(answers: Sequence[Answer]) -> float | None:
    """Accepted share of what was drafted; None: nothing was."""
    drafted = sum(answer.num_draft_tokens or 0 for answer in answers)
    accepted = sum(answer.num_accepted_draft_tokens or 0 for answer in answers)
    return accepted / drafted if drafted else None


def ratios(rows: Sequence[Measured]) -> dict[str, Any]:
    """Each arm with the router's choice over the fastest peer arm, and over our target alone.

    The fastest peer arm is that of the highest median in these very passes.
    """
    peer_rows = [row for row in rows if row.arm.system != OURS]
    best_peer = max(peer_rows, key=lambda row: median_interval(row.speeds()).median, default=None)
    found: dict[str, Any] = {}
    for row in rows:
        if not row.arm.name.startswith(f"{OURS} {AUTO}"):
            continue
        alone_name = row.arm.name.replace(AUTO, ALONE, 1)
        against = [other for other in rows if other.arm.name == alone_name]
        against += [best_peer] if best_peer is not None else []
        found[row.arm.name] = {other.arm.name: ratio(row, other) for other in against}
    return found


def ratio(row: Measured, other: Measured) -> dict[str, float]:
    """Of the tokens per second, pass by pass."""
    pairs = zip(row.speeds(), other.speeds(), strict=True)
    return asdict(median_interval([ours / theirs for ours, theirs in pairs]))


def percentiles(values: Sequence[float]) -> dict[str, float]:
    return {f"p{p}": float(np.percentile(values, p)) for p in _PERCENTILES} if values else {}
