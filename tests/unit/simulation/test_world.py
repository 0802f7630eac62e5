"""Runs whose outcome a hand can compute, and runs in which things go wrong."""

from dataclasses import replace
from typing import Any

import pytest

from specrouter_dist.config import EdgeKnobs, Plan
from specrouter_dist.simulation.oracle import DrawnText
from specrouter_dist.simulation.results import Results
from specrouter_dist.simulation.world import World
from tests.unit.simulation.profiles import lock_step, member, profile, workload

ALONE = Plan(chain=("target",))
NAMES = ("small", "medium", "target")


def run(*args: Any, **changes: Any) -> Results:
    return World(profile(*args, **changes)).run()


class TestByHand:
    def test_one_member_takes_a_step_per_token(self) -> None:
        results = run(plan=ALONE)
        assert results.duration_s == pytest.approx(101 * 10e-3)
        assert results.token_ms_mean == pytest.approx(10.0)
        assert results.mean_acceptance_length == 1.0
        assert results.utilisation == {"small": 0.0, "target": pytest.approx(1.0)}

    def test_a_prompt_is_fed_in_pieces(self) -> None:
        step = {"base_ms": 10.0, "per_row_ms": 0.1}
        results = run(
            members=[member("small"), member("target", step=step)],
            plan=ALONE,
            workload=workload(1, prompt_tokens=200, output_tokens=1),
        )
        assert results.first_token_ms_p50 == pytest.approx(10 + 12.8 + 10 + 7.2)

    # The drafter has drafted the first block while the target fed the prompt, but for the token
    # that the target picked itself: 10 ms, then a round with one draft, then whole rounds.
    @pytest.mark.parametrize("hop_ms", [0.0, 2.0])
    def test_lock_step_that_always_agrees(self, hop_ms: float) -> None:
        plan = lock_step("small", "target", lengths=(4,))
        results = run(agreements={("small", "target"): 1.0}, plan=plan, hop_us=hop_ms * 1e3)
        whole_rounds = 19 * (4 * 1 + 10 + 2 * hop_ms)
        assert results.duration_s * 1e3 == pytest.approx(10 + 1 + 10 + 2 * hop_ms + whole_rounds)
        assert results.mean_acceptance_length == pytest.approx(101 / 21)

    @pytest.mark.parametrize("hop_ms", [0.0, 2.0])
    def test_lock_step_that_never_agrees(self, hop_ms: float) -> None:
        plan = lock_step("small", "target", lengths=(4,))
        results = run(agreements={("small", "target"): 0.0}, plan=plan, hop_us=hop_ms * 1e3)
        # The last rounds need blocks of at most 3, 2, 1 and 0, but blocks are drawn whole up to
        # the end of the text: 4, 3, 2 and none.
        rounds = 96 * (4 + 10 + 2 * hop_ms) + sum(n + 10 + 2 * hop_ms for n in (4, 3, 2)) + 10
        assert results.duration_s * 1e3 == pytest.approx(10 + rounds)

    def test_drafting_ahead_hides_the_drafting(self) -> None:
        knobs = EdgeKnobs(window=9, burst=4, patience=4, patience_ms=1e6)
        plan = Plan(chain=("small", "target"), edges=(knobs,))
        results = run(agreements={("small", "target"): 1.0}, plan=plan)
        assert results.duration_s * 1e3 == pytest.approx(10 + 20 * 10)

    def test_members_of_one_device_take_turns(self) -> None:
        knobs = EdgeKnobs(window=9, burst=4, patience=4, patience_ms=1e6)
        plan = Plan(chain=("small", "target"), edges=(knobs,))
        members = [member("small", device="gpu"), member("target", device="gpu")]
        results = run(agreements={("small", "target"): 1.0}, plan=plan, members=members)
        assert results.utilisation == {"gpu": pytest.approx(1.0)}
        assert results.duration_s * 1e3 == pytest.approx(10 + 20 * (10 + 4))

    def test_a_deadline_ends_a_wait(self) -> None:
        slow = member("small", step={"base_ms": 1000.0})
        knobs = EdgeKnobs(window=4, burst=4, patience=4, patience_ms=5.0)
        plan = Plan(chain=("small", "target"), edges=(knobs,))
        results = run(members=[slow, member("target")], plan=plan)
        # Two waits in vain, then none.
        assert results.duration_s * 1e3 == pytest.approx(101 * 10 + 2 * 5)

    def test_sessions_are_batched(self) -> None:
        target = member("target", step={"base_ms": 10.0, "per_session_ms": 1.0})
        four = workload(4, concurrency=4, prompt_tokens=1, output_tokens=10)
        results = run(members=[member("small"), target], plan=ALONE, workload=four)
        assert results.duration_s * 1e3 == pytest.approx(10 * (10 + 3))

    def test_a_long_context_slows_every_step(self) -> None:
        target = member("target", step={"base_ms": 10.0, "per_context_token_ms": 0.01})
        one = workload(1, prompt_tokens=1000, output_tokens=11)
        short = member("target", step={"base_ms": 10.0})
        times_ms = [
            run(members=[member("small"), one_of], plan=ALONE, workload=one).duration_s * 1e3
            for one_of in (short, target)
        ]
        fed = range(0, 1000, 128)
        extra_ms = 0.01 * (sum(fed) + sum(1000 + k for k in range(10)))
        assert times_ms[1] - times_ms[0] == pytest.approx(extra_ms)

    def test_the_router_learns_what_the_context_costs(self) -> None:
        step = {"base_ms": 10.0, "per_context_token_ms": 0.01}
        long = workload(4, prompt_tokens=500, output_tokens=100)
        world = World(
            profile(members=[member("small"), member("target", step=step)], workload=long)
        )
        world.run()
        assert world._router is not None
        latency = world._router.latency
        assert latency.per_context_token_us("target") == pytest.approx(10.0, rel=0.02)
        assert latency.context_tokens == pytest.approx(550, rel=0.15)
        found = latency.forward_us("target", 1, context_tokens=64)
        assert found == pytest.approx(10.64e3, rel=0.02)

    def test_replicas_share_the_requests(self) -> None:
        members = [member("small"), member("target", replicas=4)]
        eight = workload(8, concurrency=8, prompt_tokens=1, output_tokens=10)
        step = {"base_ms": 0.0, "per_row_ms": 10.0}
        members = [member("small"), member("target", replicas=4, step=step)]
        results = run(members=members, plan=ALONE, workload=eight)
        assert results.duration_s * 1e3 == pytest.approx(10 * 20)

    def test_a_device_does_one_thing_at_a_time(self) -> None:
        crowd = workload(100, rate_per_s=1000.0, output_tokens=20)
        shared = [member(name, device="gpu") for name in ("small", "target")]
        for plan in (ALONE, lock_step("small", "target", lengths=(4,))):
            results = run(members=shared, plan=plan, workload=crowd)
            assert 0.5 < results.utilisation["gpu"] <= 1.0

    def test_requests_arrive_at_the_stated_rate(self) -> None:
        members = [member("small"), member("target", replicas=20)]
        many = workload(400, rate_per_s=50.0, output_tokens=2)
        results = run(members=members, plan=ALONE, workload=many)
        assert results.duration_s == pytest.approx(400 / 50, rel=0.15)


def run_agitated(seed: int = 0, plan: Plan | None = None) -> Results:
    """Replicas, load, hard and easy text, and members that come and go."""
    return run(
        NAMES,
        burstiness=0.5,
        hop_us=300.0,
        seed=seed,
        plan=plan,
        members=[member("small", replicas=2), member("medium"), member("target", replicas=2)],
        workload=workload(40, concurrency=6),
        failures=[
            {"member": "small", "replica": 0, "at_s": 0.1, "down_s": 0.2},
            {"member": "medium", "at_s": 0.2, "down_s": 0.3},
            {"member": "target", "replica": 1, "at_s": 0.4, "down_s": 0.3},
            {"member": "target", "at_s": 1.0, "down_s": 0.1},
        ],
    )


def test_the_same_seed_gives_the_same_run_and_another_seed_another() -> None:
    first, again, other = (run_agitated(seed) for seed in (0, 0, 1))
    assert first == again
    assert replace(first, plan_changes=()) != replace(other, plan_changes=())


# That the output is the target's is asserted at the end of each request.
@pytest.mark.parametrize(
    "plan",
    [
        None,
        lock_step("small", "target", lengths=(3,)),
        lock_step("small", "medium", "target", lengths=(3, 5)),
        Plan(chain=NAMES, edges=(EdgeKnobs(window=20, burst=4, patience=1),) * 2),
    ],
)
def test_every_request_ends_whatever_fails(plan: Plan | None) -> None:
    results = run_agitated(plan=plan)
    assert (results.num_requests, results.num_tokens) == (40, 1600)


def test_an_output_that_is_not_the_targets_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    picks = DrawnText.picks

    def lenient(self: DrawnText, member: int, *args: Any) -> Any:
        """A target that accepts whatever is proposed."""
        own = picks(self, member, *args)
        proposals = args[2] if len(args) > 2 else ()
        return own if member == 0 or not proposals else proposals + own[-1:]

    monkeypatch.setattr(DrawnText, "picks", lenient)
    with pytest.raises(AssertionError, match="differs from the target's"):
        run(plan=lock_step("small", "target", lengths=(4,)))


def chains_by_time(results: Results) -> list[set[str]]:
    return [set(interval.shares) for interval in results.chain_shares]


def test_a_lost_drafter_is_gone_without_and_comes_back() -> None:
    """To the same request: nobody else asks for it."""
    results = run(
        plan=lock_step("small", "target", lengths=(4,)),
        workload=workload(1, output_tokens=2000),
        failures=[{"member": "small", "at_s": 3.0, "down_s": 4.0}],
    )
    whole, alone = {"small -> target"}, {"target"}
    step = results.duration_s / 20
    for interval, chains in zip(results.chain_shares, chains_by_time(results), strict=True):
        end_s = interval.start_s + step
        if end_s < 3.0 or interval.start_s > 7.1:
            assert chains == whole
        elif interval.start_s > 3.1 and end_s < 7.0:
            assert chains == alone
    assert chains_by_time(results)[-1] == whole
    assert alone in chains_by_time(results)


def test_the_rest_of_a_chain_goes_on_without_its_middle() -> None:
    results = run(
        NAMES,
        plan=lock_step(*NAMES, lengths=(3, 5)),
        workload=workload(4, output_tokens=100),
        failures=[{"member": "medium", "at_s": 0.3, "down_s": 100.0}],
    )
    assert chains_by_time(results)[-1] == {"small -> target"}


def test_members_of_one_device_hear_at_once_that_one_is_lost() -> None:
    shared = [member(name, device="gpu") for name in NAMES]
    results = run(
        NAMES,
        members=shared,
        plan=lock_step(*NAMES, lengths=(3, 5)),
        workload=workload(4, concurrency=4, output_tokens=100),
        failures=[{"member": name, "at_s": 0.3, "down_s": 0.5} for name in ("medium", "small")],
    )
    used = chains_by_time(results)
    assert {"target"} in used and used[-1] == {" -> ".join(NAMES)}


def test_the_only_target_lost_makes_requests_wait_and_then_go_on() -> None:
    # 9 tokens are there at 95 ms; after the return their prefix is fed again in one step.
    lost = run(plan=ALONE, failures=[{"member": "target", "at_s": 0.095, "down_s": 1.0}])
    assert lost.duration_s == pytest.approx(1.095 + (101 - 9) * 10e-3)


def test_a_chain_survives_its_targets_replica() -> None:
    lost = run(
        members=[member("small"), member("target", replicas=2)],
        agreements={("small", "target"): 1.0},
        plan=lock_step("small", "target", lengths=(4,)),
        failures=[{"member": "target", "replica": 0, "at_s": 0.1, "down_s": 9.0}],
    )
    assert chains_by_time(lost)[-1] == {"small -> target"}
    assert lost.duration_s < 101 * 10e-3 / 2


class TestRouter:
    def test_it_drafts_where_members_agree_and_not_where_they_do_not(self) -> None:
        for alpha, chain in ((0.9, "small -> target"), (0.02, "target")):
            results = run(agreements={("small", "target"): alpha})
            # It is calibrated before the first request.
            assert (results.plan_changes[0].at_s, results.plan_changes[0].chain) == (0.0, chain)
            assert results.chain_shares[-1].shares == {chain: 1.0}

    def test_under_load_it_ends_on_the_target_alone(self) -> None:
        target = member("target", step={"per_row_ms": 10.0})
        results = run(
            members=[member("small"), target], workload=workload(64, concurrency=32), seed=3
        )
        assert results.chain_shares[-1].shares == {"target": 1.0}
