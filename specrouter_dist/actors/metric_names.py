"""The metrics that actors publish through Ray, which exports them as ``ray_<name>``.

Counters end in ``_total`` there.
"""

from typing import NamedTuple

PREFIX = "ray_"


class Metric(NamedTuple):
    """One of them."""

    name: str
    help: str
    tags: tuple[str, ...]
    is_counter: bool = False

    @property
    def exported(self) -> str:
        """Its name in Prometheus."""
        suffix = "_total" if self.is_counter else ""
        return f"{PREFIX}{self.name}{suffix}"


_MEMBER = ("pool", "member")
_PAIR = ("pool", "draft", "verifier")

SESSIONS = Metric("specrouter_sessions", "Open sessions of a worker, the parked too", _MEMBER)
KV_SHARE = Metric("specrouter_kv_share", "Share of a member's KV cache that is in use", _MEMBER)
RUNNING = Metric("specrouter_requests_running", "Requests with a session of the target", _MEMBER)
WAITING = Metric("specrouter_requests_waiting", "Requests that wait for room", _MEMBER)
TOKENS = Metric("specrouter_output_tokens", "Tokens that the target has put out", _MEMBER, True)
PREFIX_QUERIES = Metric(
    "specrouter_prefix_queried_tokens",
    "Tokens that were looked for in its prefix cache",
    _MEMBER,
    True,
)
PREFIX_HITS = Metric(
    "specrouter_prefix_hit_tokens", "Of these, those that were there", _MEMBER, True
)
TICKS = Metric(
    "specrouter_ticks", "Timed turns of a member: one forward, all around it", _MEMBER, True
)
TICK_SECONDS = Metric("specrouter_tick_seconds", "Time of the timed turns", _MEMBER, True)
ROUNDS = Metric("specrouter_rounds", "Blocks that a verifier has judged", _PAIR, True)
PROPOSED = Metric(
    "specrouter_judged_tokens", "Proposals judged: those up to the first rejected one", _PAIR, True
)
ACCEPTED = Metric("specrouter_accepted_tokens", "Proposals that were accepted", _PAIR, True)
WAIT_SECONDS = Metric("specrouter_block_wait_seconds", "Waits for a drafter's block", _PAIR, True)
PLAN_NUMBER = Metric("specrouter_plan_number", "Number of the router's newest plan", ("pool",))
REFUSED = Metric(
    "specrouter_observations_refused",
    "Measurements that the router could not use so far",
    ("pool",),
)
ROUTER_CPU = Metric(
    "specrouter_router_cpu_seconds", "CPU time of the router, by its use", ("pool", "on"), True
)
REACHABLE = Metric("specrouter_member_reachable", "1: the member answers the router", _MEMBER)

WORKER_METRICS = (
    *(SESSIONS, KV_SHARE, RUNNING, WAITING, TOKENS, PREFIX_QUERIES, PREFIX_HITS),
    *(TICKS, TICK_SECONDS),
    *(ROUNDS, PROPOSED, ACCEPTED, WAIT_SECONDS),
)
ROUTER_METRICS = (PLAN_NUMBER, REFUSED, ROUTER_CPU, REACHABLE)
ALL_METRICS = (*WORKER_METRICS, *ROUTER_METRICS)
