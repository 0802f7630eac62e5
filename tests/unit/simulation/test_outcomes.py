"""Drafters that prepare for outcomes: the same rounds as in lock-step, in less time."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specrouter_dist.config import Plan
from specrouter_dist.routing.observations import OutcomeCounts
from specrouter_dist.simulation.forks import TextForks
from specrouter_dist.simulation.profile import Profile
from specrouter_dist.simulation.results import Results
from specrouter_dist.simulation.world import World
from tests.unit.simulation.profiles import FOLLOW, fields, lock_step, member, profile, workload

NAMES = ("small", "medium", "target")
VERIFY_MS = 10.0
DRAFT_MS = 1.0


def prepared(plan: Plan, num_outcomes: int = 8) -> Plan:
    """The drafter uses its spare time."""
    first, *others = plan.edges
    return plan.model_copy(
        update={"edges": (first.model_copy(update={"outcomes": num_outcomes}), *others)}
    )


def pair(agreement: float, runner_ups: float, **changes: Any) -> Profile:
    """A drafter on a device of its own; its runner-ups are right so often."""
    content = fields(agreements={("small", "target"): agreement}, **changes)
    content["agreements"][0]["runner_up_agreement"] = runner_ups
    return Profile.model_validate(content)


def run(pool: Profile, plan: Plan) -> Results:
    return World(pool.model_copy(update={"plan": plan})).run()


def run_counted(pool: Profile, plan: Plan) -> tuple[Results, OutcomeCounts]:
    """And how often answers were there."""
    world = World(pool.model_copy(update={"plan": plan}))
    results = world.run()
    (counts,) = world._observations.outcomes.values()
    return results, counts


@pytest.mark.parametrize("hop_ms", [0.0, 2.0])
def test_answers_to_blocks_that_stand_cost_nothing(hop_ms: float) -> None:
    plan = prepared(lock_step("small", "target", lengths=(4,)))
    results = run(pair(1.0, 0.0, hop_us=hop_ms * 1e3), plan)
    # The first token; then 20 rounds of 5, with every block drafted during the last verify.
    assert results.duration_s * 1e3 == pytest.approx(VERIFY_MS + 20 * (VERIFY_MS + 2 * hop_ms))


@pytest.mark.parametrize("hop_ms", [0.0, 2.0])
def test_answers_to_foreseen_corrections_cost_nothing(hop_ms: float) -> None:
    plan = prepared(lock_step("small", "target", lengths=(4,)))
    results = run(pair(0.0, 1.0, hop_us=hop_ms * 1e3), plan)
    # Nobody is waited for at the first token and at the last.
    whole_ms = 2 * VERIFY_MS + 99 * (VERIFY_MS + 2 * hop_ms)
    assert results.duration_s * 1e3 == pytest.approx(whole_ms)


def test_what_is_never_foreseen_takes_as_long_as_in_lock_step() -> None:
    plan = lock_step("small", "target", lengths=(4,))
    pool = pair(0.0, 0.0)
    unhurried = run(pool, plan)
    results, counts = run_counted(pool, prepared(plan))
    assert counts.num_ready == [0, 0]
    # A forward for what may come is never longer than the rest of a verify.
    assert results.duration_s == pytest.approx(unhurried.duration_s)


@pytest.mark.parametrize(("agreement", "runner_ups"), [(0.7, 0.6), (0.5, 0.9), (0.8, 0.5)])
def test_a_round_waits_only_for_what_was_not_foreseen(agreement: float, runner_ups: float) -> None:
    """``T = t_v + (1 - h) g t_d`` with the share ``h`` of answers that are there (SSD)."""
    pool = pair(agreement, runner_ups, workload=workload(1, output_tokens=6000))
    block = 3
    results, counts = run_counted(pool, prepared(lock_step("small", "target", lengths=(block,))))
    whole, rejected = (r / n for r, n in zip(counts.num_ready, counts.num_blocks, strict=True))
    # A block that stands is followed by a token that the drafter, too, has to draw.
    assert whole == pytest.approx(agreement, abs=0.04)
    assert rejected == pytest.approx(runner_ups, abs=0.04)
    hits = agreement**block * agreement + (1 - agreement**block) * runner_ups
    num_rounds = results.work["target"].num_steps
    round_ms = results.duration_s * 1e3 / num_rounds
    expected_ms = VERIFY_MS + (1 - hits) * block * DRAFT_MS
    assert round_ms == pytest.approx(expected_ms, rel=0.01)
    assert results.work["small"].busy_s < results.duration_s


def test_a_slow_drafter_is_heard_after_the_forward_that_it_is_in() -> None:
    """7 ms a token: an answer that was there is not yet in the cache when the next may be due."""
    plan = prepared(lock_step("small", "target", lengths=(1,)))
    slow = [member("small", step={"base_ms": 7.0}), member("target")]
    results = run(pair(1.0, 0.0, members=slow), plan)
    # The first answer comes at 14 ms. Of two forwards during a verify, the second ends 4 ms after
    # it: with the answer, or, if the first had to feed the last answer, without, and it is drawn.
    starts_ms = 14 + 25 * (10 + 4 + 7) + 24 * (10 + 4)
    assert results.duration_s * 1e3 == pytest.approx(starts_ms + 10)


def test_a_forward_pays_for_every_fork() -> None:
    plan = prepared(lock_step("small", "target", lengths=(1,)))
    by_row = [member("small", step={"per_row_ms": 1.0}), member("target")]
    three = workload(1, prompt_tokens=1, output_tokens=3)
    results = run(pair(0.0, 1.0, members=by_row, workload=three), plan)
    assert results.duration_s * 1e3 == pytest.approx(3 * VERIFY_MS)
    # Beside the prompt: a block, then a token in each of two forks and one more in one of them;
    # beside the next verify: that answer, and the last token in two forks; then that answer.
    assert results.work["small"].busy_s * 1e3 == pytest.approx((1 + 2 + 1) + (1 + 2) + 1)


@pytest.mark.parametrize("at_ms", range(40, 70, 3))
def test_nothing_is_prepared_for_a_session_that_is_parked_or_closed(at_ms: float) -> None:
    lost = {"member": "target", "at_s": at_ms / 1e3, "down_s": 0.1}
    plan = prepared(lock_step("small", "target", lengths=(6,)))
    world = World(pair(0.7, 0.6, failures=[lost]).model_copy(update={"plan": plan}))
    world.run()
    (small,) = world._replicas["small"]
    assert not small.preparations._outcomes and not small.preparations._resting


def test_on_one_device_verifies_leave_no_time_to_prepare() -> None:
    shared = [member(name, device="gpu") for name in ("small", "target")]
    plan = lock_step("small", "target", lengths=(4,))
    pool = pair(0.7, 0.6, members=shared)
    assert run(pool, prepared(plan)) == run(pool, plan)


def test_fewer_outcomes_foresee_less() -> None:
    plan = lock_step("small", "target", lengths=(4,))
    pool = pair(0.6, 0.9, workload=workload(1, output_tokens=2000))
    times = [run(pool, prepared(plan, count)).duration_s for count in (8, 2, 1)]
    assert times == sorted(times)
    assert times[0] < times[-1] < run(pool, plan).duration_s


def agitated(seed: int = 0) -> Profile:
    """Replicas, load, hard and easy text, and members that come and go."""
    return profile(
        NAMES,
        burstiness=0.5,
        hop_us=300.0,
        seed=seed,
        members=[member("small", replicas=2), member("medium"), member("target", replicas=2)],
        workload=workload(40, concurrency=6),
        failures=[
            {"member": "small", "replica": 0, "at_s": 0.1, "down_s": 0.2},
            {"member": "medium", "at_s": 0.2, "down_s": 0.3},
            {"member": "target", "replica": 1, "at_s": 0.4, "down_s": 0.3},
        ],
    )


# That the output is the target's is asserted at the end of each request.
@pytest.mark.parametrize("chain", [("small", "target"), NAMES])
def test_every_request_ends_whatever_fails_and_the_seed_decides(chain: tuple[str, ...]) -> None:
    plan = prepared(lock_step(*chain, lengths=(3, 5)[-len(chain) + 1 :]))
    first, again, other = (run(agitated(seed), plan) for seed in (0, 0, 1))
    assert (first.num_requests, first.num_tokens) == (40, 1600)
    assert first == again
    assert first != other


@st.composite
def lone_requests(draw: st.DrawFn) -> tuple[Profile, Plan]:
    """Pools with one request at a time, of two levels or three, and lock-step plans."""
    names = draw(st.sampled_from([("small", "target"), NAMES]))
    small = member(
        "small",
        step={"base_ms": draw(st.sampled_from([0.2, 1.0, 6.0])), "per_row_ms": 0.05},
        device=draw(st.sampled_from([None, "target"])),
    )
    pool = fields(
        names,
        agreements=FOLLOW,
        burstiness=draw(st.sampled_from([0.0, 0.5])),
        members=[small, *(member(name) for name in names[1:])],
        hop_us=draw(st.sampled_from([0.0, 500.0])),
        seed=draw(st.integers(0, 1000)),
        workload=workload(2, output_tokens=draw(st.integers(1, 60))),
    )
    for stated in pool["agreements"]:
        stated["runner_up_agreement"] = draw(st.sampled_from([0.0, 0.6, 1.0]))
    lengths = [draw(st.integers(1, 6)) for _ in names[1:]]
    return Profile.model_validate(pool), lock_step(*names, lengths=lengths)


def check_that_rounds_are_the_same(pool: Profile, plan: Plan, num_outcomes: int) -> None:
    """A prepared answer is what the drafter would draw anyway."""
    found = [run(pool, each) for each in (plan, prepared(plan, num_outcomes))]
    steps = [{name: work.num_steps for name, work in each.work.items()} for each in found]
    assert steps[0]["target"] == steps[1]["target"]
    assert found[0].mean_acceptance_length == found[1].mean_acceptance_length
    assert steps[1]["small"] <= steps[0]["small"]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(lone_requests(), st.integers(1, 6))
def test_rounds_are_those_of_lock_step(request: tuple[Profile, Plan], num_outcomes: int) -> None:
    check_that_rounds_are_the_same(*request, num_outcomes)


def test_forks_that_forget_what_they_were_fed_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = TextForks.draw

    def forgetful(self: TextForks, feeds: Any) -> Any:
        hashes = dict(self._hashes)
        draws = draw(self, feeds)
        self._hashes.update(hashes)
        return draws

    monkeypatch.setattr(TextForks, "draw", forgetful)
    with pytest.raises(AssertionError):
        check_that_rounds_are_the_same(
            pair(0.8, 0.6), lock_step("small", "target", lengths=(4,)), 4
        )


def test_a_drafter_knows_nothing_of_the_verifier_where_its_runner_ups_are_never_right() -> None:
    """Whole blocks alone are foreseen then, however many lanes there are."""
    _, counts = run_counted(pair(0.7, 0.0), prepared(lock_step("small", "target", lengths=(3,))))
    assert counts.num_ready[1] == 0 < counts.num_ready[0]
