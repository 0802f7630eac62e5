"""Answers that are prepared while a block is verified, with a toy for a drafter."""

from array import array
from collections.abc import Sequence
from itertools import product

import pytest
from pydantic import ValidationError

from specrouter_dist.config import EdgeKnobs, SamplingParams
from specrouter_dist.engine.interface import Extension, Picks
from specrouter_dist.engine.toy import ToyEngine
from specrouter_dist.speculation.ending import StopIds
from specrouter_dist.speculation.messages import EdgeId, Truth
from specrouter_dist.speculation.odds import Odds
from specrouter_dist.speculation.outcomes import Outcomes, Verdict
from specrouter_dist.speculation.stage import Stage
from specrouter_dist.worker.forks import EngineForks, draws_of

PROMPT = [5, 9, 2]
BLOCK = 4
EDGE = EdgeId(1, 1, 1)
END = 200


class CountingToy(ToyEngine):
    """Counts its forwards."""

    num_forwards = 0

    def extend(self, batch: Sequence[Extension]) -> list[Picks]:
        self.num_forwards += 1
        return super().extend(batch)


class EvenOdds(Odds):
    """All outcomes are worth preparing."""

    def stands(self, gap: float) -> float:
        return 0.9

    def replaced(self, gap: float) -> float:
        return 0.5


class Drafter:
    """A stage in lock-step with a downstream that the test plays."""

    def __init__(
        self,
        num_outcomes: int = 8,
        *,
        temperature: float = 0.8,
        stops: Sequence[int] = (),
        end: int = END,
        max_sessions: int = 16,
        odds: Odds | None = None,
    ) -> None:
        self.engine = CountingToy(max_sessions=max_sessions)
        sampling = SamplingParams(
            temperature=temperature, seed=3, max_tokens=END, stop_token_ids=tuple(stops)
        )
        self.slot = self.engine.open(sampling, len(PROMPT), end)
        self.stage = Stage(
            PROMPT, prompt_tokens=len(PROMPT), end=end, ending=StopIds(stops), max_drafts=16
        )
        self.stage.block_tokens = BLOCK
        self.num_outcomes = num_outcomes
        odds = odds or EvenOdds()
        forks = EngineForks(self.engine, self.slot)
        self.outcomes = Outcomes(forks, odds, stop_ids=frozenset(stops), end=end)
        self._version = 1
        truth = Truth(EDGE, 1, 0, array("I", PROMPT), len(PROMPT) + BLOCK)
        self.stage.attach_downstream(truth, end)
        self.verdicts: list[Verdict | None] = []

    @property
    def stream(self) -> list[int]:
        return self.stage.tokens.slice(0, len(self.stage.tokens)).tolist()

    def step(self) -> None:
        """A forward, if there is one to make."""
        while (step := self.stage.next_step()) is not None:
            self.verdicts.append(self.outcomes.finish(self.stage, 0))
            feeding = (self.slot, step.start, step.tokens, step.num_picks, step.num_drafts)
            (picks,) = self.engine.extend([Extension(*feeding, num_runner_ups=1)])
            new = self.stage.on_step_done(picks.tokens)
            self.outcomes.note(self.stage, draws_of(picks, 0, len(new)))
        self.check()

    def prepare(self, num_forwards: int = 100) -> int:
        """So many forwards at most; returns how many."""
        for count in range(num_forwards):
            if not self.outcomes.advance(self.stage, self.num_outcomes):
                return count
            self.check()
        return num_forwards

    def settle(self, tokens: Sequence[int]) -> None:
        """The stream that downstream has now, from the settled part on."""
        base = self.stage.settled
        self._version += 1
        limit = base + len(tokens) + BLOCK
        self.stage.on_truth(Truth(EDGE, self._version, base, array("I", tokens), limit))

    def answer(self) -> int:
        if num_tokens := self.outcomes.answer(self.stage):
            self.verdicts.append(self.outcomes.finish(self.stage, num_tokens))
        self.check()
        return num_tokens

    def check(self) -> None:
        """Invariant 2."""
        cached = self.engine.cached(self.slot)[: self.stage.kv_len]
        assert cached == self.stream[: self.stage.kv_len]

    def runner_up(self, index: int) -> int:
        """Beside the token ``index`` of the pending block."""
        prefix = self.stream[: self.stage.settled + index]
        fork = self.engine.fork(self.slot, 0)
        extension = Extension(fork, 0, array("I", prefix), 1, num_runner_ups=1)
        (picks,) = self.engine.extend([extension])
        self.engine.close(fork)
        return picks.runner_ups[0][0]

    def after(self, tokens: Sequence[int], count: int) -> list[int]:
        """What the member draws behind ``tokens``."""
        fork = self.engine.fork(self.slot, 0)
        (picks,) = self.engine.extend([Extension(fork, 0, array("I", tokens), 1, count - 1)])
        self.engine.close(fork)
        return picks.tokens.tolist()


def pending(**options: object) -> Drafter:
    """A drafter that has drawn its first block and prepared for all outcomes of it."""
    drafter = Drafter(**options)  # type: ignore[arg-type]
    drafter.step()
    drafter.prepare()
    return drafter


@pytest.mark.parametrize(("index", "temperature"), list(product(range(BLOCK), (0.0, 0.8))))
def test_a_runner_up_that_stands_is_answered_without_a_forward(
    index: int, temperature: float
) -> None:
    drafter = pending(temperature=temperature)
    block = drafter.stream[len(PROMPT) :]
    settled = [*block[:index], drafter.runner_up(index)]
    drafter.settle(settled)
    num_forwards = drafter.engine.num_forwards
    assert drafter.answer() == BLOCK
    assert drafter.engine.num_forwards == num_forwards
    assert drafter.stream == [*PROMPT, *settled, *drafter.after([*PROMPT, *settled], BLOCK)]
    assert drafter.verdicts[-1] == Verdict(was_rejected=True, num_ready=BLOCK)
    assert drafter.engine.num_open == 1


def test_a_block_that_stands_as_a_whole_is_followed_up_without_a_forward() -> None:
    drafter = pending()
    settled = drafter.stream[len(PROMPT) :]
    settled += drafter.after(drafter.stream, 1)
    drafter.settle(settled)
    assert drafter.answer() == BLOCK
    assert drafter.stream == [*PROMPT, *settled, *drafter.after([*PROMPT, *settled], BLOCK)]
    assert drafter.verdicts[-1] == Verdict(was_rejected=False, num_ready=BLOCK)


def test_after_an_answer_the_cache_catches_up_and_the_next_block_is_prepared_too() -> None:
    drafter = pending()
    drafter.settle([drafter.runner_up(0)])
    assert drafter.answer() == BLOCK
    assert drafter.stage.kv_len < len(drafter.stream) - 1
    assert drafter.prepare() > 1
    assert drafter.stage.kv_len == len(drafter.stream) - 1
    settled = [*drafter.stream[drafter.stage.settled :][:2], drafter.runner_up(2)]
    drafter.settle(settled)
    assert drafter.answer() == BLOCK


def test_an_answer_need_not_wait_for_the_cache() -> None:
    drafter = pending()
    drafter.settle([drafter.runner_up(0)])
    drafter.answer()
    drafter.settle([drafter.stream[drafter.stage.settled], 23, 22])
    assert drafter.answer() == 0
    drafter.step()
    text = drafter.stream[: drafter.stage.settled]
    assert drafter.stream == [*text, *drafter.after(text, BLOCK)]


def test_what_was_not_foreseen_is_drafted_as_ever() -> None:
    drafter = pending()
    block = drafter.stream[len(PROMPT) :]
    other = next(t for t in range(24) if t not in (block[1], drafter.runner_up(1)))
    drafter.settle([block[0], other])
    assert drafter.answer() == 0
    drafter.step()
    text = [*PROMPT, block[0], other]
    assert drafter.stream == [*text, *drafter.after(text, BLOCK)]
    assert drafter.verdicts[-1] == Verdict(was_rejected=True, num_ready=0)
    assert drafter.engine.num_open == 1


def test_a_part_of_an_answer_is_of_use() -> None:
    drafter = Drafter()
    drafter.step()
    assert drafter.prepare(2) == 2
    drafter.settle([drafter.runner_up(0)])
    assert drafter.answer() == 2
    drafter.step()
    text = drafter.stream[: drafter.stage.settled]
    assert drafter.stream == [*text, *drafter.after(text, BLOCK)]


@pytest.mark.parametrize("lost", [False, True])
def test_no_more_outcomes_are_prepared_than_asked_for_and_the_likeliest_first(lost: bool) -> None:
    odds = Odds()
    for gap, _ in product((0.1, 0.2, 0.4, 0.8, 1.5, 3.0, 6.0, 12.0), range(200)):
        odds.learn(gap, lost=lost, replaced=lost)
    drafter = Drafter(num_outcomes=1, odds=odds)
    drafter.step()
    drafter.prepare()
    assert drafter.engine.num_open == 2
    whole = [*drafter.stream[len(PROMPT) :], *drafter.after(drafter.stream, 1)]
    drafter.settle([drafter.runner_up(0)] if lost else whole)
    assert drafter.answer() == BLOCK


def test_each_forward_draws_one_token_of_every_lane() -> None:
    drafter = Drafter(num_outcomes=3)
    drafter.step()
    assert drafter.prepare() == BLOCK + 1


def test_without_room_there_are_fewer_answers_and_nothing_fails() -> None:
    alone, pair = pending(max_sessions=1), pending(max_sessions=2)
    assert alone.engine.num_open == 1
    assert pair.engine.num_open == 2
    alone.settle([alone.stream[3], 23])
    assert alone.answer() == 0
    alone.step()
    assert len(alone.stream) == len(PROMPT) + 2 + BLOCK


def test_nothing_is_prepared_behind_a_stop_or_the_end() -> None:
    free = Drafter()
    free.step()
    stop = free.runner_up(0)
    drafter = pending(stops=[stop])
    drafter.settle([stop])
    assert drafter.answer() == 0
    near = pending(end=len(PROMPT) + BLOCK + 2)
    near.settle([near.runner_up(0)])
    assert near.answer() == BLOCK
    last = pending(end=len(PROMPT) + BLOCK)
    last.settle([*last.stream[len(PROMPT) :][: BLOCK - 2], last.runner_up(BLOCK - 2)])
    assert last.answer() == 1


def test_releasing_frees_every_slot_and_forgets_the_answers() -> None:
    drafter = pending()
    assert drafter.engine.num_open > 2
    drafter.outcomes.release()
    assert drafter.engine.num_open == 1
    drafter.settle([drafter.runner_up(0)])
    assert drafter.answer() == 0


def test_a_stream_that_changed_meanwhile_is_prepared_for_anew() -> None:
    drafter = pending()
    num_open = drafter.engine.num_open
    drafter.settle([drafter.stream[len(PROMPT)]])
    drafter.step()
    assert drafter.prepare() > 0
    assert drafter.engine.num_open == num_open
    drafter.settle([drafter.runner_up(0)])
    assert drafter.answer() == BLOCK


def test_outcomes_go_with_whole_blocks() -> None:
    with pytest.raises(ValidationError, match="patience above 0"):
        EdgeKnobs(window=4, burst=4, patience=0, outcomes=2)
    with pytest.raises(ValidationError):
        EdgeKnobs(outcomes=17)
