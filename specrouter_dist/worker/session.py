"""One session of one member, as its worker keeps it."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from specrouter_dist.config import EdgeKnobs, SamplingParams
from specrouter_dist.links.address import Peer
from specrouter_dist.links.control import LevelCounts
from specrouter_dist.observability.spans import RequestSpan
from specrouter_dist.routing.traffic import Traffic
from specrouter_dist.speculation.lookup import LookupStage
from specrouter_dist.speculation.messages import EdgeId
from specrouter_dist.speculation.stage import Stage
from specrouter_dist.speculation.tiers import TieredStage
from specrouter_dist.worker.stats import Plans

if TYPE_CHECKING:
    from specrouter_dist.worker.member import Member

OWN_TEXT = "own text"
"""Where it stands for a drafter: proposals that continue the verifier's own text."""


@dataclass(eq=False, slots=True)
class Session:
    """A stage with everything that the stage itself need not know.

    ``peer`` fields are None where the other side is a member of the same worker.
    """

    id: int
    """64-bit id of the request."""
    member: "Member"
    stage: Stage | LookupStage
    slot: int | None
    sampling: SamplingParams
    prompt_tokens: int
    end: int
    """No position at or beyond it is wanted by the request."""
    traffic: Traffic
    """The kind of request."""

    wanted: tuple[str, ...] = ()
    """Members above this one, drafter first."""
    edges: tuple[EdgeKnobs, ...] = ()
    """``edges[i]`` is below ``wanted[i]``."""
    trace: str = ""
    """As in Submit."""
    span: RequestSpan | None = None
    """Of a member that drafts for such a request."""
    owner: "Session | None" = None
    """The target's session of the same request, whose KV storage a slim member's is in."""
    guests: list["Session"] = field(default_factory=list)
    """Slim members' sessions in this one's storage; they end with it."""

    plan_number: int = 0
    plans: Plans = field(default_factory=Plans)
    """Of a request at its target."""
    queued_us: int = 0
    """How long the request waited for room."""
    prefill_us: int = 0
    """From there until its first token was there."""

    up_edge: EdgeId | None = None
    up_peer: Peer | None = None
    num_attached: int = 0
    """The upstream is ``wanted[num_attached - 1]``; 0: none. Below ``len(wanted)`` the chain is
    shorter than wanted."""
    drafter: str | None = None
    """The upstream last attached; after it is gone, still whose proposals were counted."""
    parked_upstreams: dict[str, tuple[EdgeId, Peer | None]] = field(default_factory=dict)
    """Upstreams of earlier plans, by member, that may still hold the session under a lease."""
    refused: set[str] = field(default_factory=set)
    """Members that had no room for this session."""
    down_edge: EdgeId | None = None
    down_peer: Peer | None = None

    deadline: float | None = None
    """When the present wait for proposals ends, by the worker's clock."""
    waits_since: float | None = None
    """When the present wait for proposals began."""
    num_outcomes: int = 0
    """Outcomes of a verify downstream for which this member may prepare its answer."""
    drafter_restarts: bool = False
    """The last round rejected a proposal of the drafter's, so what comes next was drafted after
    it."""
    device_us: float = 0.0
    """Device time spent on this session by this member."""
    upstream_levels: tuple[LevelCounts, ...] = ()
    upstream_device_us: int = 0
    """As last reported by the upstream, over all members above."""

    def __post_init__(self) -> None:
        if self.owner is not None:
            self.owner.guests.append(self)

    def lose_cache(self, kv_len: int) -> None:
        """Another session has written behind ``kv_len`` in the storage that they share."""
        stage = self.model_stage
        stage.kv_len = min(stage.kv_len, kv_len)

    @property
    def chain(self) -> tuple[str, ...]:
        """All members that are wanted, drafter first."""
        return (*self.wanted, *self.member.path)

    @property
    def upstream(self) -> str | None:
        """Name of the attached upstream member."""
        return self.wanted[self.num_attached - 1] if self.num_attached else None

    @property
    def drafts_ahead(self) -> bool:
        """Whether the upstream may draft what follows a block while the block is verified."""
        knobs = self.edges[self.num_attached - 1] if self.num_attached else None
        return knobs is not None and (knobs.drafts_ahead or knobs.outcomes > 0)

    def forget_waiting(self) -> None:
        """The upstream is another one: what was awaited of the last one says nothing of it."""
        self.deadline, self.waits_since, self.drafter_restarts = None, None, False

    @property
    def model_stage(self) -> Stage:
        """The stage, of a member that is a model."""
        assert isinstance(self.stage, Stage)
        return self.stage

    @property
    def num_rounds(self) -> int:
        """Forwards of the model that wrote."""
        stage = self.model_stage
        return stage.counts.rounds + stage.own_counts.rounds

    def levels(self) -> tuple[LevelCounts, ...]:
        """Counts of every level from the drafter down to this one."""
        if not isinstance(self.stage, Stage):
            return self.upstream_levels
        return (*self.upstream_levels, *self._own_levels(self.stage))

    def _own_levels(self, stage: Stage) -> Iterator[LevelCounts]:
        own = [(stage.own_counts, stage.counts)]
        if isinstance(stage, TieredStage):
            own.insert(0, (stage.slim_own_counts, stage.slim_counts))
        for verifier, both in zip(self.member.path, own, strict=True):
            for draft, counts in zip((OWN_TEXT, self.drafter), both, strict=True):
                if draft is not None and counts.verify_rounds:
                    yield LevelCounts(
                        draft=draft,
                        verifier=verifier,
                        proposed=counts.proposed,
                        accepted=counts.accepted,
                        rounds=counts.verify_rounds,
                        truncations=counts.truncations,
                    )

    def total_device_us(self) -> int:
        """Device time over this member and all above, in microseconds."""
        return int(self.device_us) + self.upstream_device_us
