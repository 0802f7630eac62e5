"""A member's worker in a protocol test."""

from dataclasses import dataclass

from specrouter_dist.config import EdgeKnobs
from specrouter_dist.engine.toy import ToyEngine
from specrouter_dist.speculation.lookup import LookupStage
from specrouter_dist.speculation.messages import TokenArray
from specrouter_dist.speculation.stage import Stage
from specrouter_dist.speculation.steps import Step
from tests.unit.speculation.scenarios import MemberSpec, engine_of


@dataclass(eq=False)
class Node:
    """A member's worker with its one session."""

    index: int
    spec: MemberSpec
    stage: Stage | LookupStage | None = None
    slot: int = -1
    incarnation: int = 0
    num_attaches: int = 0
    plan_number: int = -1
    wanted: tuple[int, ...] = ()
    """Members above this one, drafter first."""
    knobs: tuple[EdgeKnobs, ...] = ()
    down: int = -1
    reconnects: bool = False
    """The link to the upstream is lost and will be made again."""
    step: Step | None = None
    picks: "TokenArray | None" = None

    @property
    def model(self) -> Stage | None:
        """The stage, of a member that has a model."""
        return self.stage if isinstance(self.stage, Stage) else None

    @property
    def engine(self) -> ToyEngine:
        """The engine, of a member that has a model."""
        assert self.spec.agreement is not None
        return engine_of(self.spec.agreement, self.spec.seed)

    @property
    def stream(self) -> TokenArray:
        """A copy of the stage's own tokens."""
        assert self.stage is not None
        return self.stage.tokens.slice(0, len(self.stage.tokens))
