"""Negative controls: each fault planted in the stage is found by the protocol's invariants."""

from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from specrouter_dist.speculation.edges import ProposalQueue, UpstreamEdge
from specrouter_dist.speculation.forks import Draw
from specrouter_dist.speculation.matching import NgramIndex
from specrouter_dist.speculation.messages import Proposals, TokenArray, Truth
from specrouter_dist.speculation.outcomes import Outcomes
from specrouter_dist.speculation.stage import Stage
from specrouter_dist.speculation.steps import Step
from specrouter_dist.speculation.tokens import TokenBuffer
from tests.unit.speculation.drivers import run
from tests.unit.speculation.oracle import Violation
from tests.unit.speculation.scenarios import Scenario, scenarios
from tests.unit.speculation.test_protocol import SCHEDULES

Patch = pytest.MonkeyPatch

SEARCH = settings(
    max_examples=4000,
    derandomize=True,
    deadline=None,
    phases=[Phase.generate],
    report_multiple_bugs=False,
    suppress_health_check=list(HealthCheck),
)


def accept_all(patch: Patch) -> None:
    verify = Stage._verify

    def faulty(self: Stage, step: Step, fed: TokenArray, picks: TokenArray) -> TokenArray:
        proposed = step.tokens[len(step.tokens) - step.num_proposals :]
        return verify(self, step, fed, proposed + picks[step.num_proposals :])

    patch.setattr(Stage, "_verify", faulty)


def take_the_bonus_one_place_too_early(patch: Patch) -> None:
    verify = Stage._verify

    def faulty(self: Stage, step: Step, fed: TokenArray, picks: TokenArray) -> TokenArray:
        new = verify(self, step, fed, picks)
        if step.num_proposals and len(new) == step.num_proposals + 1:
            new[-1] = new[-2]
        return new

    patch.setattr(Stage, "_verify", faulty)


def keep_the_cache_at_a_cut(patch: Patch) -> None:
    cut = Stage._cut

    def faulty(self: Stage, position: int) -> None:
        kv_len = self.kv_len
        cut(self, position)
        self.kv_len = kv_len

    patch.setattr(Stage, "_cut", faulty)


def keep_the_cache_of_all_that_was_fed(patch: Patch) -> None:
    step_done = Stage.on_step_done

    def faulty(self: Stage, picks: TokenArray) -> TokenArray:
        assert self._step is not None
        fed_end = self._step.start + len(self._step.tokens)
        new = step_done(self, picks)
        self.kv_len = min(fed_end, len(self.tokens) - 1)
        return new

    patch.setattr(Stage, "on_step_done", faulty)


def queue_whatever_comes(patch: Patch) -> None:
    def faulty(self: ProposalQueue, proposals: Proposals, own: TokenBuffer, limit: int) -> None:
        queue_end = len(own) + len(self)
        if proposals.start <= queue_end:
            first = queue_end - proposals.start
            fits = slice(first, max(first, limit - proposals.start))
            self._append(proposals.tokens[fits], own)

    patch.setattr(ProposalQueue, "offer", faulty)


def keep_the_queue_at_a_cut(patch: Patch) -> None:
    own_cut = UpstreamEdge.on_own_cut

    def faulty(self: UpstreamEdge, position: int) -> None:
        queue, self.queue = self.queue, ProposalQueue()
        own_cut(self, position)
        self.queue = queue

    patch.setattr(UpstreamEdge, "on_own_cut", faulty)


def draft_beyond_the_limit(patch: Patch) -> None:
    def faulty(self: Stage) -> int:
        return 0 if self._ended else self._end - len(self.tokens)

    patch.setattr(Stage, "_room", faulty)


def draft_beyond_the_context(patch: Patch) -> None:
    def faulty(self: Stage) -> int:
        return 0 if self._ended else self._limit - len(self.tokens)

    patch.setattr(Stage, "_room", faulty)


def queue_beyond_the_limit(patch: Patch) -> None:
    offer = ProposalQueue.offer

    def faulty(self: ProposalQueue, proposals: Proposals, own: TokenBuffer, limit: int) -> None:
        offer(self, proposals, own, limit + 3)

    patch.setattr(ProposalQueue, "offer", faulty)


def take_back_what_was_granted(patch: Patch) -> None:
    def faulty(self: UpstreamEdge, own: TokenBuffer, end: int) -> int:
        return min(len(own) + self.knobs.window, end)

    patch.setattr(UpstreamEdge, "_limit_now", faulty)


def draft_while_parked(patch: Patch) -> None:
    patch.setattr(Stage, "detach_downstream", lambda self: setattr(self, "down", None))


def wait_for_ever(patch: Patch) -> None:
    patch.setattr(Stage, "on_deadline", lambda self: None)


def count_every_acknowledgement(patch: Patch) -> None:
    on_proposals = UpstreamEdge.on_proposals

    def faulty(self: UpstreamEdge, proposals: Proposals, own: TokenBuffer) -> None:
        self.floor_version = 0
        on_proposals(self, proposals, own)

    patch.setattr(UpstreamEdge, "on_proposals", faulty)


def follow_older_truths(patch: Patch) -> None:
    on_truth = Stage.on_truth

    def faulty(self: Stage, truth: Truth) -> None:
        if self.down is not None:
            self.down.version_seen = 0
        on_truth(self, truth)

    patch.setattr(Stage, "on_truth", faulty)


def believe_old_news_that_nothing_follows(patch: Patch) -> None:
    on_proposals = UpstreamEdge.on_proposals

    def faulty(self: UpstreamEdge, proposals: Proposals, own: TokenBuffer) -> None:
        on_proposals(self, proposals, own)
        self.more = proposals.more

    patch.setattr(UpstreamEdge, "on_proposals", faulty)


def never_send_a_run_ahead_again(patch: Patch) -> None:
    on_truth = Stage.on_truth

    def faulty(self: Stage, truth: Truth) -> None:
        sent = self.down.sent if self.down else 0
        on_truth(self, truth)
        if self.down is not None:
            self.down.sent = min(max(sent, self.down.sent), len(self.tokens))

    patch.setattr(Stage, "on_truth", faulty)


def forget_older_places_at_a_cut(patch: Patch) -> None:
    def faulty(self: NgramIndex, length: int) -> None:
        for _, gram in self._grams(length, len(self._stream)):
            self._newest.pop(gram, None)
        del self._older[length + 1 :]
        self._stream.truncate(length)

    patch.setattr(NgramIndex, "truncate", faulty)


def believe_that_an_answer_has_been_fed(patch: Patch) -> None:
    answer = Outcomes.answer

    def faulty(self: Outcomes, stage: Stage) -> int:
        num_tokens = answer(self, stage)
        if num_tokens:
            stage.kv_len = len(stage.tokens) - 1
        return num_tokens

    patch.setattr(Outcomes, "answer", faulty)


def answer_with_another_outcome(patch: Patch) -> None:
    def faulty(self: Outcomes, stage: Stage) -> list[Draw] | None:
        length = len(stage.tokens)
        found = [lane.drafted for lane in self._lanes if lane.length == length]
        return found[-1] if found and found[-1] else None

    patch.setattr(Outcomes, "_prepared", faulty)


@pytest.mark.parametrize(
    ("plant", "invariants"),
    [
        (accept_all, {1}),
        (take_the_bonus_one_place_too_early, {1}),
        (keep_the_cache_at_a_cut, {2}),
        (keep_the_cache_of_all_that_was_fed, {2}),
        (queue_whatever_comes, {3}),
        (keep_the_queue_at_a_cut, {3}),
        (draft_beyond_the_limit, {5}),
        (draft_beyond_the_context, {5}),
        (queue_beyond_the_limit, {5}),
        (take_back_what_was_granted, {5}),
        (draft_while_parked, {5}),
        (wait_for_ever, {7}),
        (count_every_acknowledgement, {8}),
        (follow_older_truths, {8}),
        (believe_old_news_that_nothing_follows, {8}),
        (never_send_a_run_ahead_again, {8}),
        (forget_older_places_at_a_cut, {8}),
        (believe_that_an_answer_has_been_fed, {2}),
        (answer_with_another_outcome, {1}),
    ],
    ids=lambda value: value.__name__ if callable(value) else None,
)
def test_a_planted_fault_is_found(
    plant: Callable[[Patch], None], invariants: set[int], monkeypatch: Patch
) -> None:
    @SEARCH
    @given(scenarios(), SCHEDULES, st.booleans())
    def search(scenario: Scenario, schedule: bytes, loses_air: bool) -> None:
        run(scenario, schedule, loses_air=loses_air)

    plant(monkeypatch)
    with pytest.raises(Violation) as found:
        search()
    assert found.value.invariant in invariants
