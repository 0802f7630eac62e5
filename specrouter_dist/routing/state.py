"""What a router remembers: plain values, and the bounds that true ones keep to.

The bounds are for pydantic: ``routing/snapshot.py`` checks by them what it reads.
"""

from itertools import chain, pairwise
from typing import Annotated, Literal, NamedTuple

from pydantic import AfterValidator, Field

from specrouter_dist.routing.traffic import Traffic

MAX_POSITIONS = 17
"""Positions of a block that are told apart: the longest block and the token behind it."""

MAX_SIZE = 1 << 20
"""Most rows, sessions and tokens of context that a forward can have."""

Count = Annotated[float, Field(ge=0.0, le=1e12, allow_inf_nan=False)]
Positive = Annotated[float, Field(ge=1e-6, le=1e12, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0.0, le=1.0, allow_inf_nan=False)]
Size = Annotated[int, Field(ge=1, le=MAX_SIZE)]
Name = Annotated[str, Field(min_length=1, max_length=256)]
Positions = Annotated[tuple[Count, ...], Field(min_length=MAX_POSITIONS, max_length=MAX_POSITIONS)]


class Level(NamedTuple):
    """Where a decayed mean stands."""

    value: Count
    weight: Positive


def _check_ratio(level: Level) -> Level:
    if not 1e-6 <= level.value <= 1e6:
        raise ValueError(f"ratios lie in [1e-6, 1e6], got {level.value}")
    return level


def _check_context(level: Level) -> Level:
    if not 1 <= level.value <= MAX_SIZE:
        raise ValueError(f"contexts lie in [1, {MAX_SIZE}], got {level.value}")
    return level


Ratio = Annotated[Level, AfterValidator(_check_ratio)]
Context = Annotated[Level, AfterValidator(_check_context)]


Origin = Literal["greedy texts", "sampled texts"]
"""Texts at whose positions laws were compared."""


class EvidenceState(NamedTuple):
    """Blocks of a pair from one source, for one kind of request."""

    draft: Name
    verifier: Name
    traffic: Traffic
    source: Literal["replayed", "chained"]
    reached: Positions
    accepted: Positions
    num_blocks: Count
    num_empty: Count
    age_s: Count
    """Of the newest block."""


def check_blocks(state: EvidenceState) -> EvidenceState:
    """
    Raises:
        ValueError: blocks cannot have come out so.
    """
    falling = [state.num_blocks, *chain(*zip(state.reached, state.accepted, strict=True))]
    if any(fewer > more for more, fewer in pairwise(falling)):
        raise ValueError("more proposals were reached or accepted than can have been")
    if state.num_empty > state.num_blocks:
        raise ValueError("more blocks were empty than there were")
    return state


class ScoreState(NamedTuple):
    """How alike a pair is, for one kind of request."""

    draft: Name
    verifier: Name
    traffic: Traffic
    score: Share
    least: Share
    most: Share
    num_positions: Positive
    origin: Origin
    age_s: Count
    """Of the newest comparison."""


def check_score(state: ScoreState) -> ScoreState:
    """
    Raises:
        ValueError: the bounds of agreement are the wrong way round.
    """
    if state.least > state.most:
        raise ValueError("agreement cannot be bounded so")
    return state


class LineState(NamedTuple):
    """Decayed sums over observed steps, for the line of observed over profiled times."""

    weight: Count
    u: Count
    """Of one over what was profiled,"""
    uu: Count
    """of its square,"""
    z: Count
    """of what was observed over what was profiled,"""
    uz: Count
    """and of the product of both."""


def _check_line(line: LineState) -> LineState:
    if line.weight and not 1e-6 <= line.z / line.weight <= 1e6:
        raise ValueError(f"ratios lie in [1e-6, 1e6], got {line.z / line.weight}")
    if line.u**2 > line.weight * line.uu * (1 + 1e-9) or (line.weight and not line.uu):
        raise ValueError("there are no steps of which these are sums")
    return line


class BatchState(NamedTuple):
    """Times of a member's steps for so many sessions at a time."""

    num_sessions: Size
    line: Annotated[LineState, AfterValidator(_check_line)]
    """Of observed over profiled."""
    points_us: Annotated[tuple[tuple[Size, Size, Positive], ...], Field(min_length=1)]
    """Profiled: sizes and contexts with their times."""


class SurfaceState(NamedTuple):
    """Times of a member's steps."""

    member: Name
    batches: Annotated[tuple[BatchState, ...], Field(min_length=1)]


class SlowdownState(NamedTuple):
    """How much longer a member's step takes while another one drafts."""

    beside: Name
    member: Name
    ratio: Ratio


class HopState(NamedTuple):
    """What a round pays for crossing between two members, in microseconds."""

    draft: Name
    verifier: Name
    level: Level


class LatencyState(NamedTuple):
    """What is known of times."""

    forwards: tuple[SurfaceState, ...]
    drafting: tuple[SurfaceState, ...]
    slowdowns: tuple[SlowdownState, ...]
    hops: tuple[HopState, ...]
    context_tokens: Context
    """Typical of the traffic."""


class Manner(NamedTuple):
    """How the target's text is made."""

    chain: tuple[Name, ...]
    is_ahead: bool = False
    """Drafts are made ahead for the target."""


class PaceState(NamedTuple):
    """Measured over predicted round times at one load."""

    manner: Manner
    """Whose own part it is; of no chain: what the machine does to all."""
    num_sessions: Size
    log_ratio: Annotated[float, Field(ge=-10.0, le=10.0, allow_inf_nan=False)]
    variance: Positive
