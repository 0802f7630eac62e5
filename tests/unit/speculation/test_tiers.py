"""A slim verifier that commits tokens: what stands of a block, the budget, and whole chains."""

import math
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from specrouter_dist.config import EdgeKnobs, LossyParams, SamplingParams
from specrouter_dist.engine.interface import Extension, Picks
from specrouter_dist.engine.toy import ToyEngine
from specrouter_dist.speculation.ending import Ending, StopIds
from specrouter_dist.speculation.messages import (
    TOKEN_TYPECODE,
    EdgeId,
    Message,
    Proposals,
    TokenArray,
    Truth,
)
from specrouter_dist.speculation.stage import Stage
from specrouter_dist.speculation.steps import Step
from specrouter_dist.speculation.tiers import TieredStage, TieredStep, Weight, route

PROMPT = (1, 2, 3, 4)
NUM_TOKENS = 60
END = len(PROMPT) + NUM_TOKENS
CHUNK_TOKENS = 8
EDGE = EdgeId(1, 1, 1)
KNOBS = (
    EdgeKnobs(window=4, burst=4, patience=4),
    EdgeKnobs(window=12, burst=6, patience=1),
    EdgeKnobs(window=5, burst=3, patience=2, match_tokens=1),
)
ENGINES = {
    name: ToyEngine(12, model_seed=i, agreement=agreement, sharpness=1.0)
    for i, (name, agreement) in enumerate({"target": 1.0, "slim": 0.8, "draft": 0.6}.items())
}
"""Shared by all runs: their tables are dear."""


@st.composite
def lossy_params(draw: st.DrawFn) -> LossyParams:
    # No nearer to each other than logarithms are exact.
    bounds = st.integers(1, 999).map(lambda thousandths: thousandths / 1000)
    escalate, accept = sorted(draw(st.lists(bounds, min_size=2, max_size=2, unique=True)))
    share = draw(st.one_of(st.sampled_from((1.0, 0.5, 0.9)), st.floats(0.01, 1.0)))
    return LossyParams(accept=accept, escalate=escalate, max_unverified_share=share)


def weight_of(ratio: float) -> Weight:
    best = math.log(0.5)
    return Weight(best + math.log(ratio), best, best)


@given(lossy_params())
def test_no_tier_is_empty(lossy: LossyParams) -> None:
    ratios = (1.0, (lossy.accept + lossy.escalate) / 2, lossy.escalate / 2)
    routings = [route([5], [6], [weight_of(ratio)], lossy) for ratio in ratios]
    assert [list(routing.tokens) for routing in routings] == [[5], [6], []]
    assert [routing.escalates for routing in routings] == [False, False, True]


@pytest.mark.parametrize(
    "bounds", [(0.3, 0.6), (0.5, 0.5), (0.0, 0.0), (1.0, 0.5), (0.5, 0.0), (float("nan"), 0.3)]
)
def test_thresholds_that_leave_a_tier_empty_are_refused(bounds: tuple[float, float]) -> None:
    accept, escalate = bounds
    with pytest.raises(ValidationError, match=r"accept|escalate"):
        LossyParams(accept=accept, escalate=escalate)


@given(
    lossy_params(),
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2), st.floats(1e-6, 1.0)), max_size=8),
)
def test_a_block_stands_up_to_the_first_token_that_is_not_as_drafted(
    lossy: LossyParams, block: list[tuple[int, int, float]]
) -> None:
    proposed, picks, ratios = zip(*block, strict=True) if block else ((), (), ())
    routing = route(proposed, (*picks, 0), [weight_of(ratio) for ratio in ratios], lossy)
    num = len(routing.tokens)
    assert len(routing.in_tier_b) == len(routing.logprobs) == num <= len(block)
    for i, token in enumerate(routing.tokens):
        # The logarithms' rounding must not decide.
        if min(abs(ratios[i] - b) for b in (lossy.accept, lossy.escalate)) > 1e-9:
            assert ratios[i] > lossy.escalate
            assert token == (proposed[i] if ratios[i] > lossy.accept else picks[i])
        assert token == proposed[i] or i == num - 1
    is_as_drafted = list(routing.tokens) == list(proposed[:num])
    assert routing.escalates == (is_as_drafted and num < len(block))


@dataclass
class Storage:
    """The KV storage of both: who has written which token where."""

    written: list[tuple[str, int]] = field(default_factory=list)

    def feed(self, who: str, step: Step, stage: TieredStage) -> None:
        """Invariant 2, before every forward; and the slim verifier leaves alone what is the
        target's."""
        stream = stage.tokens.slice(0, len(stage.tokens))
        for position, (writer, token) in enumerate(self.written[: step.start]):
            assert token == stream[position]
            assert writer == "target" or (who == "slim" and position >= stage.kv_len)
        assert step.start <= len(self.written)
        assert who == "target" or step.start >= stage.kv_len
        del self.written[step.start :]
        self.written.extend((who, token) for token in step.tokens)


class Pair:
    """A tiered stage over toys, with a drafter behind a network that loses, doubles and delays."""

    def __init__(self, lossy: LossyParams, sampling: SamplingParams, seed: int) -> None:
        self.random = Random(seed)
        self.lossy = lossy
        self.sampling = sampling
        ending = StopIds(sampling.stop_token_ids)
        self.stage = TieredStage(
            PROMPT,
            lossy=lossy,
            prompt_tokens=len(PROMPT),
            end=END,
            ending=ending,
            chunk_tokens=CHUNK_TOKENS,
        )
        self.draft = Stage(PROMPT, prompt_tokens=len(PROMPT), end=END, ending=ending, max_drafts=3)
        self.storage = Storage()
        self.air: list[Message] = []
        self.num_given = {"target": 0, "slim": 0}
        self.logprobs: dict[int, float] = {}
        """The slim verifier's, by position."""
        self.attach(1)

    def attach(self, number: int) -> None:
        knobs = self.random.choice(KNOBS)
        truth = self.stage.attach_upstream(EDGE._replace(attach=number), knobs)
        self.draft.attach_downstream(truth, END)

    def picks(self, name: str, stream: TokenArray, step: Step) -> Picks:
        """Of a forward that feeds ``step`` behind ``stream``."""
        engine = ENGINES[name]
        slot = engine.open(self.sampling, len(PROMPT), END + 1)
        weighed = step.weighed if isinstance(step, TieredStep) else ()
        extension = Extension(
            slot, 0, stream + step.tokens, step.num_picks, step.num_drafts, weighed=weighed
        )
        (picks,) = engine.extend([extension])
        engine.close(slot)
        return picks

    def turn(self) -> bool:
        """One forward of the pair; whether there was one."""
        stage = self.stage
        length, kv_len = len(stage.tokens), stage.kv_len
        step = stage.next_step()
        if step is None:
            return False
        name = "slim" if isinstance(step, TieredStep) and step.by_slim else "target"
        self.storage.feed(name, step, stage)
        if name == "target" and length > len(PROMPT):
            fed = min(length - kv_len, CHUNK_TOKENS)
            assert step.tokens[:fed] == stage.tokens.slice(kv_len, kv_len + fed), "the whole tail"
            assert fed == CHUNK_TOKENS or step.num_picks == len(step.tokens), "all are compared"
        picks = self.picks(name, stage.tokens.slice(0, step.start), step)
        num_checked = len(stage.tiers.overshoots)
        new = stage.take(picks.tokens, picks.weights)
        assert len(stage.tokens) == length + len(new)
        self.num_given[name] += len(new)
        if isinstance(step, TieredStep):
            self.note(step, picks, new)
            assert stage.tiers.overshoots[num_checked:].tolist() == pytest.approx(
                [] if step.by_slim else self.overshoots(step, picks), abs=1e-6
            )
        self.check()
        return True

    def note(self, step: TieredStep, picks: Picks, new: TokenArray) -> None:
        """How likely the slim verifier finds what it has committed."""
        for i, token in enumerate(new if step.by_slim else ()):
            weight = picks.weights[i]
            logprob = weight.token if token == step.weighed[i] else weight.pick
            self.logprobs[step.first_pick + i] = logprob

    def overshoots(self, step: TieredStep, picks: Picks) -> list[float]:
        """By how much that exceeds what the target says of the same positions."""
        logprobs = [self.logprobs[step.first_pick + i] for i in range(len(step.weighed))]
        pairs = zip(logprobs, picks.weights, strict=True)
        return [max(0.0, math.exp(lp) - math.exp(weight.token)) for lp, weight in pairs]

    def check(self) -> None:
        stage, tiers = self.stage, self.stage.tiers
        num_tokens = len(stage.tokens) - len(PROMPT)
        assert tiers.accepted + tiers.slim + tiers.escalated == num_tokens
        assert tiers.num_unverified == self.num_given["slim"]
        assert tiers.num_unverified <= self.lossy.max_unverified_share * num_tokens + 1e-6
        assert len(tiers.overshoots) <= tiers.num_unverified
        assert tiers.num_disagreements <= len(tiers.overshoots)
        assert tiers.num_confirmed <= tiers.num_escalations
        assert stage.kv_len < len(stage.tokens)
        assert stage.slim_kv_len < len(stage.tokens)

    def draft_turn(self) -> None:
        step = self.draft.next_step()
        if step is not None:
            stream = self.draft.tokens.slice(0, step.start)
            self.draft.on_step_done(self.picks("draft", stream, step).tokens)

    def mail(self, *, is_faulty: bool) -> None:
        self.air += [*self.stage.flush(), *self.draft.flush()]
        if is_faulty:
            self.random.shuffle(self.air)
        while self.air and not (is_faulty and self.random.random() < 0.3):
            message = self.air.pop(0)
            for _ in range(self.random.choice((0, 1, 2)) if is_faulty else 1):
                match message:
                    case Truth():
                        self.draft.on_truth(message)
                    case Proposals():
                        self.stage.on_proposals(message)

    def run(self, num_faulty: int) -> TokenArray:
        """To the end, first on a faulty network; returns the output."""
        for number in range(num_faulty):
            self.draft_turn()
            self.mail(is_faulty=True)
            if self.random.random() < 0.5:
                self.turn()
            if self.random.random() < 0.05:
                self.stage.detach_upstream()
                self.attach(number + 2)
        while not self.stage.finished:
            self.draft_turn()
            self.mail(is_faulty=False)
            if not self.turn() and self.stage.wait_ms is not None and not self.air:
                self.stage.on_deadline()
        return self.stage.tokens.slice(len(PROMPT), END)


def alone(sampling: SamplingParams) -> TokenArray:
    """What the target makes of the prompt."""
    pair = Pair(LossyParams(), sampling, 0)
    step = Step(0, array(TOKEN_TYPECODE, PROMPT), 1, 0, NUM_TOKENS - 1)
    return pair.picks("target", array(TOKEN_TYPECODE), step).tokens


SAMPLINGS = st.builds(
    SamplingParams,
    max_tokens=st.just(NUM_TOKENS),
    temperature=st.sampled_from((0.0, 0.7)),
    seed=st.integers(0, 5),
    stop_token_ids=st.sampled_from(((), (7,))),
)


@settings(max_examples=120, deadline=None, derandomize=True)
@given(lossy_params(), SAMPLINGS, st.integers(0, 2**32), st.sampled_from((0, 20, 80)))
def test_counts_budget_and_storage_whatever_the_network_does(
    lossy: LossyParams, sampling: SamplingParams, seed: int, num_faulty: int
) -> None:
    pair = Pair(lossy, sampling, seed)
    output = pair.run(num_faulty)
    is_stopped = bool(output) and output[-1] in sampling.stop_token_ids
    assert len(output) == NUM_TOKENS or is_stopped
    assert not set(output[:-1]) & set(sampling.stop_token_ids)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(SAMPLINGS, st.integers(0, 2**32), st.sampled_from((0, 40)))
def test_without_a_budget_the_text_is_the_targets(
    sampling: SamplingParams, seed: int, num_faulty: int
) -> None:
    pair = Pair(LossyParams(max_unverified_share=0.001), sampling, seed)
    assert pair.run(num_faulty) == alone(sampling)
    assert pair.stage.tiers.num_unverified == 0


def test_all_tiers_occur_and_the_target_disagrees_now_and_then() -> None:
    lossy = LossyParams(accept=0.6, escalate=0.3, max_unverified_share=0.6)
    sampling = SamplingParams(temperature=0.0, max_tokens=NUM_TOKENS)
    pair = Pair(lossy, sampling, 1)
    assert pair.run(0) != alone(sampling)
    tiers = pair.stage.tiers
    assert min(tiers.accepted, tiers.slim, tiers.escalated, tiers.num_escalations) > 0
    assert 0 < tiers.num_disagreements < len(tiers.overshoots)
    assert max(tiers.overshoots) > 0.0
    counts = (pair.stage.counts, pair.stage.slim_counts)
    assert all(0 < each.accepted < each.proposed for each in counts)


def forced(stage: TieredStage, *, picks: Sequence[int], ratios: Sequence[float]) -> TokenArray:
    """The slim verifier's next step, with these picks and ratios."""
    step = stage.next_step()
    assert isinstance(step, TieredStep)
    assert step.by_slim
    return stage.take(array(TOKEN_TYPECODE, picks), [weight_of(ratio) for ratio in ratios])


def with_block(*block: int, ending: Ending) -> TieredStage:
    """A stage with one token, 9, and a block of proposals."""
    lossy = LossyParams(accept=0.6, escalate=0.3, max_unverified_share=1.0)
    stage = TieredStage(PROMPT, lossy=lossy, prompt_tokens=4, end=END, ending=ending)
    stage.attach_upstream(EDGE, EdgeKnobs(window=8, burst=4, patience=4))
    assert stage.next_step() is not None
    assert stage.take(array(TOKEN_TYPECODE, [9]), ()) == array(TOKEN_TYPECODE, [9])
    stage.flush()
    proposed = array(TOKEN_TYPECODE, block)
    stage.on_proposals(Proposals(EDGE, 2, 5, 5, stage.tokens.hash_at(5), proposed, True))
    return stage


def test_an_end_that_the_drafter_does_not_know_cuts_a_block() -> None:
    """As a stop string does."""
    stage = with_block(10, 11, 12, 13, ending=StopIds([11]))
    assert list(forced(stage, picks=[10, 11, 5, 13, 5], ratios=[1.0, 0.5, 0.5, 0.1])) == [10, 11]
    tiers = stage.tiers
    assert (tiers.accepted, tiers.slim, tiers.escalated, tiers.num_escalations) == (1, 1, 1, 0)
    assert stage.finished and stage.stopped
    assert stage.next_step() is None


def test_an_escalation_feeds_the_tail() -> None:
    stage = with_block(10, 11, 12, 13, ending=StopIds(()))
    new = forced(stage, picks=[10, 5, 5, 5, 5], ratios=[1.0, 0.7, 0.2, 1.0])
    assert list(new) == [10, 11]
    step = stage.next_step()
    assert isinstance(step, TieredStep)
    assert (step.start, list(step.tokens), step.by_slim) == (4, [9, 10, 11], False)
    # It would have written 10, 8 instead of 11, and after 11 it writes what was drafted.
    weights = [weight_of(1.0), weight_of(0.1)]
    assert list(stage.take(array(TOKEN_TYPECODE, [10, 8, 12]), weights)) == [12]
    tiers = stage.tiers
    assert (tiers.num_disagreements, tiers.escalated, tiers.num_confirmed) == (1, 2, 1)
    assert list(tiers.overshoots) == pytest.approx([0.0, 0.35 - 0.05])
    assert list(stage.tokens.slice(4, 10)) == [9, 10, 11, 12]
    assert stage.up is not None
    assert list(stage.up.queue.tokens) == [13], "what was drafted behind it still counts"


@pytest.mark.parametrize(("pick", "num_proposed"), [(12, 3 + 1), (5, 4)])
def test_a_draft_behind_a_disputed_one_is_counted_once(pick: int, num_proposed: int) -> None:
    """Proposed again behind a token that stands, and dropped behind one that does not."""
    stage = with_block(10, 11, 12, 13, ending=StopIds(()))
    forced(stage, picks=[10, 11, 5, 5, 5], ratios=[1.0, 1.0, 0.2, 1.0])
    assert stage.next_step() is not None
    stage.take(array(TOKEN_TYPECODE, [10, 11, pick]), [weight_of(1.0)] * 2)
    if pick == 12:
        stage.on_deadline()
        assert list(forced(stage, picks=[13, 5], ratios=[1.0])) == [13]
    counts = stage.slim_counts
    assert (counts.proposed, counts.accepted) == (num_proposed, 3 if pick == 12 else 2)
