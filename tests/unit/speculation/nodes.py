"""A member's worker in a protocol test."""

from dataclasses import dataclass

from specrouter_dist.config import EdgeKnobs
from specrouter_dist.engine.toy import ToyEngine
from specrouter_dist.speculation.ending import StopIds
from specrouter_dist.speculation.lookup import LookupStage
from specrouter_dist.speculation.messages import TokenArray
from specrouter_dist.speculation.stage import Stage
from specrouter_dist.speculation.steps import Step
from tests.unit.speculation.scenarios import LOOKUP_MATCH, MemberSpec, Scenario, engine_of


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

    def open(self, scenario: Scenario, tokens: TokenArray) -> None:
        """A session that begins with ``tokens``."""
        prompt_tokens, end = len(scenario.prompt), min(scenario.end, self.spec.context_tokens)
        if self.spec.is_lookup:
            self.stage = LookupStage(
                tokens,
                prompt_tokens=prompt_tokens,
                end=end,
                min_match_tokens=LOOKUP_MATCH[0],
                max_match_tokens=LOOKUP_MATCH[1],
            )
            return
        self.slot = self.engine.open(scenario.sampling, prompt_tokens, scenario.end)
        self.stage = Stage(
            tokens,
            prompt_tokens=prompt_tokens,
            end=end,
            ending=StopIds(scenario.sampling.stop_token_ids),
            chunk_tokens=self.spec.chunk_tokens,
            max_drafts=self.spec.max_drafts,
        )

    def close(self) -> None:
        """Gives the shared engine its slot back and forgets the session."""
        if self.model is not None:
            self.engine.close(self.slot)
        self.stage, self.slot, self.step, self.picks, self.down = None, -1, None, None, -1
