"""What travels on links besides the two messages of the stages (speculation/messages.py).

Tokens are uint32 ids in an ``array('I')`` that its sender does not change once it is sent.
"""

from dataclasses import dataclass
from typing import Literal

from specrouter_dist.config import EdgeKnobs, LossyParams, Plan, SamplingParams
from specrouter_dist.engine.interface import TokenLogprobs
from specrouter_dist.speculation.messages import EdgeId, Proposals, TokenArray, Truth

FinishReason = Literal["stop", "length", "cancelled"]


# Producer: a downstream stage's worker. Consumer: the worker of its new upstream.
@dataclass(frozen=True, slots=True)
class Attach:
    """A Truth with base 0 and all that the receiver needs to open the session."""

    edge: EdgeId
    version: int
    """Version of the Truth that this is."""
    plan_number: int
    """Newer plans have higher numbers; older ones are ignored."""
    chain: tuple[str, ...]
    """Members from the drafter up to and including the receiver."""
    edges: tuple[EdgeKnobs, ...]
    """Knobs above the receiver: ``edges[i]`` joins ``chain[i]`` to ``chain[i + 1]``."""
    prompt_tokens: int
    """The first ``prompt_tokens`` of ``tokens`` are the prompt."""
    tokens: TokenArray
    """The sender's whole stream, prompt included."""
    sampling: SamplingParams
    end: int
    """No position at or beyond it is wanted."""
    limit: int
    """Position up to which the receiver may draft."""
    block_tokens: int
    """The sender waits for so many proposals."""
    outcomes: int
    """For how many outcomes of a verify the receiver may prepare."""
    task: str
    """As in Submit."""
    trace: str = ""
    """As in Submit."""


# Producer: a downstream stage's worker. Consumer: its upstream's worker, which passes it on.
@dataclass(frozen=True, slots=True)
class Replan:
    """The edge goes on, under other knobs, or with another chain above the receiver.

    One that is lost costs speed alone: an Attach or the next Replan says everything again.
    """

    edge: EdgeId
    plan: Plan
    """Of the whole chain. One that is older than the receiver's is ignored."""


# Producer: the worker that was asked to attach. Consumer: the downstream stage's worker.
@dataclass(frozen=True, slots=True)
class Refused:
    """The receiver of an Attach has no room (or no such member): go without it."""

    edge: EdgeId
    reason: str


# Producer: a downstream stage's worker. Consumer: its upstream's worker.
@dataclass(frozen=True, slots=True)
class Detach:
    """The edge is over."""

    edge: EdgeId
    close: bool
    """False parks the session with its KV under a lease; True frees it now."""


@dataclass(frozen=True, slots=True)
class LevelCounts:
    """What ``draft`` proposed to ``verifier`` for one request so far."""

    draft: str
    verifier: str
    proposed: int
    accepted: int
    rounds: int
    """Forwards of the verifier that had proposals to check."""
    truncations: int
    """Of these, those that rejected one."""


# Producer: an upstream stage's worker. Consumer: its downstream's worker.
@dataclass(frozen=True, slots=True)
class Report:
    """What the request has cost and achieved above the receiver so far; the newest stands."""

    edge: EdgeId
    levels: tuple[LevelCounts, ...]
    """The drafter's edge first; the receiver's own is not among them."""
    device_us: int
    """Device time of all members above, in microseconds."""


# Producer: an ingress. Consumer: the target's worker.
@dataclass(frozen=True, slots=True)
class Submit:
    """Generate for this request."""

    request: int
    """64-bit id chosen by the ingress."""
    prompt: TokenArray
    sampling: SamplingParams
    plan: Plan | None
    """None: the plan of the target's table, and re-planned with it."""
    output: TokenArray
    """Tokens that the ingress has already received from another target; usually empty."""
    task: str = ""
    """What the prompt is about, where that is known: a key of the agreement statistics."""
    name: str = ""
    """The client's id of the request, which logs repeat."""
    trace: str = ""
    """Traceparent of the span that it belongs to; empty: nobody asks for spans."""
    lossy: LossyParams | None = None
    """The slim member before the target in ``plan`` commits tokens by itself; None: the text is the
    target's."""


# Producer: the target's worker. Consumer: the workers of the pool's other models.
@dataclass(frozen=True, slots=True)
class Settled:
    """A request's whole text, for the receiver's members to read in spare time."""

    request: int
    prompt_tokens: int
    """The first ``prompt_tokens`` of ``tokens`` are the prompt."""
    tokens: TokenArray
    sampling: SamplingParams
    task: str
    """As in Submit."""


# Producer: an ingress. Consumer: the target's worker.
@dataclass(frozen=True, slots=True)
class Cancel:
    """Nobody wants this request's output any more."""

    request: int


# Producer: the target's worker. Consumer: the ingress that submitted the request.
@dataclass(frozen=True, slots=True)
class Output:
    """The next tokens of a request, settled for good."""

    request: int
    start: int
    """Position of ``tokens[0]`` in the output."""
    tokens: TokenArray
    finish_reason: FinishReason | None
    """None: more follows."""
    logprobs: tuple[TokenLogprobs, ...]
    """One per token, or empty when the request did not ask for them."""
    stats: dict[str, object] | None
    """Counters of the whole request, on the last Output only. Values are plain: None, bool, int,
    float, str, tuples and dicts of these."""
    prompt_logprobs: tuple[TokenLogprobs, ...] = ()
    """Of the prompt's next tokens, from its second on, where the request asked for them; ``tokens``
    may be empty then."""


# Producer: the target's worker. Consumer: the ingress that submitted the request.
@dataclass(frozen=True, slots=True)
class Failed:
    """The request ends without (more) output."""

    request: int
    kind: str
    """Name of a class of errors.py."""
    message: str


WireMessage = (
    Proposals
    | Truth
    | Attach
    | Refused
    | Detach
    | Report
    | Submit
    | Cancel
    | Output
    | Failed
    | Settled
    | Replan
)
"""Everything that can be in a frame."""

TAGS: dict[type[WireMessage], int] = {
    Proposals: 1,
    Truth: 2,
    Attach: 3,
    Refused: 4,
    Detach: 5,
    Submit: 6,
    Cancel: 7,
    Output: 8,
    Failed: 9,
    Report: 10,
    Settled: 11,
    Replan: 12,
}
"""What a message's array begins with. A number is never used again for something else."""

PROTOCOL_VERSION = 9
"""Raised whenever a frame's meaning changes; peers of another version are not talked to."""

MAX_ARRAY_LEN = 8192
"""Most elements of any array in a frame, and so most messages. msgpack allocates arrays as
announced, before it sees the elements, so the announcement needs a bound."""
