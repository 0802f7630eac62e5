"""Small pools for the tests of the simulator."""

from collections.abc import Mapping, Sequence
from typing import Any

from specrouter_dist.config import EdgeKnobs, Plan
from specrouter_dist.simulation.profile import Profile

STEP_MS = {"small": 1.0, "medium": 3.0, "target": 10.0}
FOLLOW = {("small", "medium"): 0.7, ("medium", "target"): 0.8, ("small", "target"): 0.6}


def member(name: str, **changes: Any) -> dict[str, Any]:
    role = "target" if name == "target" else "drafter"
    return {"name": name, "role": role, "step": {"base_ms": STEP_MS[name]}} | changes


def fields(
    names: Sequence[str] = ("small", "target"),
    agreements: Mapping[tuple[str, str], float] | None = None,
    burstiness: float = 0.0,
    **changes: Any,
) -> dict[str, Any]:
    """The fields of a profile: one request of one prompt token and 101 others, no hops."""
    pairs = FOLLOW if agreements is None else agreements
    return {
        "name": "test",
        "members": [member(name) for name in names],
        "agreements": [
            {"draft": d, "verifier": v, "agreement": alpha, "burstiness": burstiness}
            for (d, v), alpha in pairs.items()
            if d in names and v in names
        ],
        "hop_us": 0.0,
        "workload": {
            "num_requests": 1,
            "concurrency": 1,
            "prompt_tokens": 1,
            "output_tokens": 101,
        },
    } | changes


def profile(*args: Any, **changes: Any) -> Profile:
    """The profile of :func:`fields`."""
    return Profile.model_validate(fields(*args, **changes))


def lock_step(*chain: str, lengths: Sequence[int]) -> Plan:
    """A plan in which each stage waits for a block of so many tokens."""
    edges = [EdgeKnobs(window=n, burst=n, patience=n, patience_ms=1e6) for n in lengths]
    return Plan(chain=chain, edges=tuple(edges))


def workload(num_requests: int, **changes: Any) -> dict[str, Any]:
    """So many requests of 8 prompt tokens and 40 others, one at a time."""
    fields = {"num_requests": num_requests, "prompt_tokens": 8, "output_tokens": 40}
    return fields | ({"concurrency": 1} if "rate_per_s" not in changes else {}) | changes
