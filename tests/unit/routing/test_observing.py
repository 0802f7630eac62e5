"""What steps say: of whom a block was, and which waits are comparable."""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass

import pytest

from specrouter_dist.config import EdgeKnobs
from specrouter_dist.routing.observations import Observations, PairKey, Survival, WaitKey
from specrouter_dist.routing.observing import end_step, wait_key
from specrouter_dist.routing.replay import own_text_names
from specrouter_dist.routing.traffic import GREEDY, Traffic
from specrouter_dist.speculation.ending import StopIds
from specrouter_dist.speculation.messages import EdgeId, Proposals
from specrouter_dist.speculation.stage import Stage
from specrouter_dist.speculation.steps import Step

KNOBS = EdgeKnobs(window=4, burst=4, patience=2, match_tokens=2)
PROMPT = [1, 2, 3, 4, 5, 6, 7, 1]
OWN, BESIDE = own_text_names("small", 2)


@dataclass
class Verifier:
    """A session of ``medium``, whose drafter is ``small`` and has nobody above it."""

    edges: tuple[EdgeKnobs, ...] = (KNOBS,)
    wanted: tuple[str, ...] = ("small",)
    num_attached: int = 1
    num_outcomes: int = 0
    drafter_restarts: bool = False
    drafts_ahead: bool = False
    upstream: str | None = "small"
    traffic: Traffic = GREEDY

    def __post_init__(self) -> None:
        self.model_stage = Stage(PROMPT, prompt_tokens=8, end=100, ending=StopIds(()), kv_len=7)
        self.model_stage.attach_upstream(EdgeId(1, 1, 1), KNOBS)
        self.seen = Observations()

    def propose(self, tokens: Sequence[int]) -> None:
        stage = self.model_stage
        stage.flush()
        assert stage.up is not None
        start = len(stage.tokens)
        frame = Proposals(
            stage.up.edge,
            stage.up.version,
            start,
            start,
            stage.tokens.hash_at(start),
            array("I", tokens),
            True,
        )
        stage.on_proposals(frame)

    def step(self, picks: Sequence[int]) -> Step:
        step = self.model_stage.next_step()
        assert step is not None
        end_step("medium", self, step, array("I", picks), self.seen)
        return step

    def found(self) -> dict[str, Survival]:
        assert all(key[1:] == ("medium", GREEDY) for key in self.seen.pairs)
        return {key.draft: survival for key, survival in self.seen.pairs.items()}


def test_where_nothing_matches_the_block_is_the_drafters() -> None:
    verifier = Verifier()
    verifier.propose([9, 8])
    assert not verifier.step([9, 5, 0]).from_own_text
    assert verifier.found() == {
        OWN: Survival(num_blocks=1, num_empty=1),
        BESIDE: Survival([1, 1], [1, 0], num_blocks=1),
        # What is known of the pair by itself does not grow old meanwhile.
        "small": Survival([1, 1], [1, 0], num_blocks=1),
    }
    assert verifier.drafter_restarts


def test_where_the_text_matches_the_block_is_its_own() -> None:
    verifier = Verifier()
    verifier.step([2])
    verifier.propose([9, 8])
    verifier.seen = Observations()
    assert verifier.step([3, 4, 0, 0, 0]).from_own_text
    assert verifier.found() == {OWN: Survival([1, 1, 1, 0], [1, 1, 0, 0], num_blocks=1)}


def test_a_block_of_the_own_text_is_nobodys_where_another_plan_came_first() -> None:
    verifier = Verifier()
    verifier.step([2])
    verifier.seen = Observations()
    step = verifier.model_stage.next_step()
    verifier.edges = (KNOBS.model_copy(update={"match_tokens": 0}),)
    assert step is not None and step.from_own_text
    end_step("medium", verifier, step, array("I", [3, 4, 0, 0, 0]), verifier.seen)
    assert verifier.found() == {}


@pytest.mark.parametrize("is_own", [False, True])
def test_only_behind_its_own_rejected_block_the_drafter_is_waited_for_from_its_start(
    is_own: bool,
) -> None:
    verifier = Verifier()
    if is_own:
        verifier.step([2])
        assert verifier.step([0, 0, 0, 0, 0]).from_own_text
    else:
        verifier.propose([9, 8])
        verifier.step([0, 0, 0])
    assert verifier.model_stage.next_step() is None
    verifier.propose([9, 8])
    step = verifier.model_stage.next_step()
    assert step is not None and step.num_proposals == 2
    expected = None if is_own else WaitKey("small", "medium", 2)
    assert wait_key("medium", verifier, step) == expected


def test_pairs_are_named_by_who_verifies() -> None:
    verifier = Verifier()
    verifier.step([2])
    verifier.step([3, 4, 0, 0, 0])
    assert set(verifier.seen.pairs) == {
        PairKey(OWN, "medium", GREEDY),
        PairKey(BESIDE, "medium", GREEDY),
        PairKey("small", "medium", GREEDY),
    }
