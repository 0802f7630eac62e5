"""A request, and its sessions at the members' replicas."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from specrouter_dist.config import EdgeKnobs
from specrouter_dist.routing.climbing import Climb
from specrouter_dist.routing.traffic import GREEDY, Traffic
from specrouter_dist.simulation.texts import Text
from specrouter_dist.speculation.lookup import LookupStage
from specrouter_dist.speculation.messages import EdgeId, TokenArray
from specrouter_dist.speculation.stage import Stage

if TYPE_CHECKING:
    from specrouter_dist.simulation.devices import Replica


@dataclass(eq=False, slots=True)
class Request:
    """What a client has asked for, and how far it has come."""

    id: int
    prompt: TokenArray
    end: int
    """Position behind the last token."""
    text: Text
    arrived_us: float
    tokens: TokenArray
    """Prompt and output."""
    climb: Climb
    """Its way along the router's plans."""
    session: "Session | None" = None
    """At the target; None while it waits for a replica."""
    sessions: "list[Session]" = field(default_factory=list)
    """At all replicas, the parked ones too."""

    first_token_us: float | None = None
    device_us: float = 0.0
    """Its share of the forwards, over all members."""
    num_rounds: int = 0
    """Of the target, with at least one token."""
    num_replans: int = 0


@dataclass(eq=False, slots=True)
class Session:
    """One request at one replica: a stage with everything that the stage itself need not know."""

    request: Request
    replica: "Replica"
    stage: Stage | LookupStage

    wanted: tuple[str, ...] = ()
    """Members above this one, drafter first."""
    edges: tuple[EdgeKnobs, ...] = ()
    """``edges[i]`` is below ``wanted[i]``."""
    plan_number: int = -1

    up: "Session | Replica | None" = None
    """The upstream; its replica until the attach has arrived there."""
    up_edge: EdgeId | None = None
    num_attached: int = 0
    """The upstream is ``wanted[num_attached - 1]``; 0: none."""
    down: "Session | None" = None

    closed: bool = False
    """The replica holds it no more."""
    num_outcomes: int = 0
    """Outcomes of a verify downstream for which this member may prepare its answer."""
    prepared_us: float = 0.0
    """What the last forward took that prepared for one."""
    parked_us: float = 0.0
    """When its downstream last let go."""
    deadline_us: float | None = None
    """When the present wait for proposals ends."""
    has_timer: bool = False
    """The clock will look at the deadline."""
    waits_since_us: float | None = None
    drafter_restarts: bool = False
    """The last round rejected a proposal of the drafter's, so what comes next was drafted after
    it."""

    @property
    def traffic(self) -> Traffic:
        """All requests are of one kind."""
        return GREEDY

    @property
    def model_stage(self) -> Stage:
        """The stage of a member that has a model."""
        assert isinstance(self.stage, Stage)
        return self.stage

    @property
    def upstream(self) -> str | None:
        """Name of the attached upstream member."""
        return self.wanted[self.num_attached - 1] if self.num_attached else None

    @property
    def drafts_ahead(self) -> bool:
        """Whether the upstream may draft what follows a block while the block is verified."""
        knobs = self.edges[self.num_attached - 1] if self.num_attached else None
        return knobs is not None and (knobs.drafts_ahead or knobs.outcomes > 0)

    def draft_as_wanted(self, below: EdgeKnobs) -> None:
        """The edge to downstream has these knobs; a lookup always answers with all it has."""
        if isinstance(self.stage, Stage):
            self.stage.block_tokens = below.patience or None
            self.num_outcomes = below.outcomes

    def forget_waiting(self) -> None:
        """The upstream is another one: what was awaited of the last one says nothing of it."""
        self.deadline_us, self.waits_since_us, self.drafter_restarts = None, None, False
