"""Lossy requests in a worker: what they are told, and that nobody else notices them."""

import itertools
from typing import Any

import pytest

from specrouter_dist.config import EdgeKnobs, LossyParams, Plan, SamplingParams
from specrouter_dist.worker.tiers import TieredHost
from tests.integration.worker.slims import AHEAD, LOCK_STEP, OWN_TEXT, Slims

# Without a draft nothing is committed.
PATIENT = LOCK_STEP.model_copy(update={"patience_ms": 50})
# A random model's law is flat: what is drafted is hardly ever far below the likeliest.
LOSSY = LossyParams(accept=0.9, escalate=0.5)
GREEDY = SamplingParams(temperature=0.0, max_tokens=40)
PENALISED = SamplingParams(temperature=0.8, max_tokens=40, frequency_penalty=0.4)


def plan(*chain: str, knobs: EdgeKnobs = PATIENT) -> Plan:
    return Plan(chain=chain, edges=(knobs,) * (len(chain) - 1))


@pytest.mark.parametrize("sampling", [GREEDY, PENALISED], ids=["greedy", "penalised"])
@pytest.mark.parametrize(
    ("chain", "knobs"),
    [
        (("draft", "slim", "target"), PATIENT),
        (("draft", "slimmer", "target"), AHEAD),
        (("lookup", "draft", "slim", "target"), OWN_TEXT),
    ],
)
def test_every_token_is_of_a_tier(
    slims: Slims, chain: tuple[str, ...], knobs: EdgeKnobs, sampling: SamplingParams
) -> None:
    way = plan(*chain, knobs=knobs)
    requests = [slims.submit(way, sampling, number, LOSSY) for number in range(4)]
    before = slims.storage.num_checked
    for request in requests:
        tokens, stats = slims.collect(request)
        tiers = stats["tiers"]
        assert tiers["accepted"] + tiers["slim"] + tiers["escalated"] == len(tokens) == 40
        num_unverified = tiers["accepted"] + tiers["slim"]
        assert 0 < num_unverified <= LOSSY.max_unverified_share * len(tokens)
        assert tiers["num_disagreements"] <= tiers["num_checked"] <= num_unverified
        assert 0.0 <= tiers["overshoot_mean"] <= tiers["overshoot_p99"] <= tiers["overshoot_max"]
        assert stats["chain"] == chain
        verifiers = {verifier for _, verifier, *_ in stats["levels"]}
        assert chain[-2] in verifiers
    assert slims.storage.num_checked > before


@pytest.mark.parametrize("sampling", [GREEDY, PENALISED], ids=["greedy", "penalised"])
def test_with_next_to_no_budget_the_text_is_the_targets(
    slims: Slims, sampling: SamplingParams
) -> None:
    wanted = slims.texts(("target",), PATIENT, sampling)
    least = LossyParams(max_unverified_share=0.001)
    way = plan("draft", "slim", "target")
    requests = [slims.submit(way, sampling, number, least) for number in range(4)]
    assert [slims.collect(request)[0] for request in requests] == wanted


def test_requests_that_did_not_ask_get_the_targets_text_beside_those_that_did(
    slims: Slims,
) -> None:
    wanted = slims.texts(("target",), PATIENT, PENALISED)
    ways = itertools.cycle([plan("draft", "slim", "target"), plan("target")])
    requests = [
        slims.submit(next(ways), PENALISED, number // 2, None if number % 2 else LOSSY)
        for number in range(8)
    ]
    # Longer than the others, and of the same prompts: pages are shared.
    lossless = plan("draft", "slim", "target", knobs=AHEAD)
    requests += [slims.submit(lossless, PENALISED, number) for number in range(4)]
    outputs = [slims.collect(request) for request in requests]
    assert ["tiers" in stats for _, stats in outputs] == [True, False] * 4 + [False] * 4
    assert [tokens for tokens, _ in outputs[1:8:2]] == wanted
    assert [tokens for tokens, _ in outputs[8:]] == wanted
    assert [tokens for tokens, _ in outputs[:8:2]] != wanted


def test_the_router_learns_nothing_of_them(slims: Slims) -> None:
    way = plan("draft", "slim", "target")
    for number in range(3):
        slims.collect(slims.submit(way, GREEDY, number, LOSSY))
    slims.worker.stop()
    seen = slims.worker.take_observations()
    assert not seen.readings
    assert {key.member for key in seen.forwards} <= {"draft"}
    for kept in ("pairs", "waits", "paces", "laws"):
        assert not getattr(seen, kept), kept


def test_the_same_requests_without_loss_teach_it(slims: Slims) -> None:
    for number in range(3):
        slims.collect(slims.submit(plan("draft", "slim", "target"), GREEDY, number))
    slims.worker.stop()
    seen = slims.worker.take_observations()
    assert seen.readings
    assert {key.member for key in seen.forwards} >= {"draft", "slim", "target"}
    assert seen.pairs and seen.paces


def test_it_goes_on_where_another_target_was(slims: Slims) -> None:
    way = plan("draft", "slim", "target")
    known = list(range(30))
    tokens, stats = slims.collect(slims.submit(way, GREEDY, 2, LOSSY, known))
    tiers = stats["tiers"]
    assert len(tokens) == tiers["accepted"] + tiers["slim"] + tiers["escalated"] == 40 - 30


def test_what_cannot_be_lossy_is_refused(slims: Slims) -> None:
    refused: list[tuple[tuple[str, ...], dict[str, Any], str]] = [
        (("draft", "target"), {}, "chain"),
        (("slim", "target"), {}, "chain"),
        (("slim", "draft", "target"), {}, "chain"),
        (("slimmer", "slim", "target"), {}, "chain"),
        (("draft", "slim", "target"), {"logprobs": 0}, "logprobs"),
        (("draft", "slim", "target"), {"prompt_logprobs": 1}, "logprobs"),
    ]
    for chain, update, field in refused:
        sampling = GREEDY.model_copy(update=update)
        refusal = slims.refusal(slims.submit(plan(*chain), sampling, 0, LOSSY))
        assert refusal.kind == "RequestError"
        assert refusal.message.startswith(f"{field}: ")


def test_nothing_is_held_when_they_are_over(slims: Slims) -> None:
    num_free = slims.target._decoder.cache.allocator.num_free
    for number in range(3):
        slims.collect(slims.submit(plan("draft", "slim", "target"), PENALISED, number, LOSSY))
    slims.worker.stop()
    assert not slims.worker._chains.sessions
    slims.target._sessions._prefixes.take(num_free)
    tiered = [host for host in slims.worker._turns if isinstance(host, TieredHost)]
    assert len(tiered) == 2
    assert not any(host._slim._sampler._sessions or host.ready for host in tiered)


def test_both_sorts_of_requests_have_their_turns(slims: Slims) -> None:
    """A request of the target alone always has a step; so has one whose drafter is in time."""
    order = list(slims.worker._turns)
    target, first, second = order[:3]
    assert [model.name for model in order[:3]] == ["target", "slimmer", "slim"]
    slims.worker._turns.had(target)
    assert list(slims.worker._turns)[:3] == [first, second, target]
    slims.worker._turns.had(first)
    slims.worker._turns.had(order[-1])
    assert list(slims.worker._turns) == [second, target, first, *order[3:]]
