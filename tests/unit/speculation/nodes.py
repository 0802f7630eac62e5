"""A member's worker in a protocol test."""

from array import array
from dataclasses import dataclass

from specrouter_dist.config import EdgeKnobs
from specrouter_dist.engine.interface import Picks
from specrouter_dist.engine.toy import ToyEngine
from specrouter_dist.speculation.ending import StopIds
from specrouter_dist.speculation.lookup import LookupStage
from specrouter_dist.speculation.messages import TOKEN_TYPECODE, TokenArray
from specrouter_dist.speculation.odds import Odds
from specrouter_dist.speculation.outcomes import Outcomes
from specrouter_dist.speculation.stage import Stage
from specrouter_dist.speculation.steps import Step
from specrouter_dist.worker.forks import EngineForks, draws_of
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
    picks: Picks | None = None
    num_outcomes: int = 0
    outcomes: Outcomes | None = None
    """Of a drafter's session; every lane is a slot of the engine."""

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
    def num_runner_ups(self) -> int:
        """How many are wanted beside the picks of the next step."""
        return int(self.num_outcomes > 0 and self.model is not None and self.model.up is None)

    def note(self, new: TokenArray, picks: Picks, first_pick: int) -> None:
        """The stream grew by ``new``, of ``picks`` from position ``first_pick`` on."""
        if self.model and self.outcomes and picks.runner_ups:
            skipped = len(self.model.tokens) - len(new) - first_pick
            draws = draws_of(picks, skipped, len(new))
            assert [draw.token for draw in draws] == list(new)
            self.outcomes.note(self.model, draws)

    def prepare(self) -> bool:
        """One forward for the likely outcomes of a verify; whether there was one to make."""
        if self.model is None or not self.outcomes or not self.num_outcomes or self.step:
            return False
        return self.outcomes.advance(self.model, self.num_outcomes)

    def answer(self) -> TokenArray:
        """By what the stream grew because the Truth was one of the outcomes."""
        if self.model is None or not self.outcomes:
            return array(TOKEN_TYPECODE)
        num_tokens = self.outcomes.answer(self.model)
        if num_tokens:
            self.outcomes.finish(self.model, num_tokens)
        return self.stream[len(self.model.tokens) - num_tokens :]

    def tune(self, scenario: Scenario, below: EdgeKnobs) -> None:
        """The edge to the downstream has these knobs."""
        self.drop_outcomes()
        if self.model is None:
            return
        self.model.block_tokens = below.patience or None
        self.num_outcomes = below.outcomes
        end = min(scenario.end, self.spec.context_tokens)
        stop_ids = frozenset(scenario.sampling.stop_token_ids)
        forks = EngineForks(self.engine, self.slot)
        self.outcomes = Outcomes(forks, Odds(), stop_ids=stop_ids, end=end)

    def drop_outcomes(self) -> None:
        """The slots of all lanes are free again."""
        if self.outcomes:
            self.outcomes.release()
        self.outcomes, self.num_outcomes = None, 0

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
        self.drop_outcomes()
        if self.model is not None:
            self.engine.close(self.slot)
        self.stage, self.slot, self.step, self.picks, self.down = None, -1, None, None, -1
