"""A profile of what was measured: it describes the pool that was measured."""

import math
from array import array
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.live_profile import (
    Times,
    agreement_of,
    for_plan,
    make_profile,
    runner_up_agreement_of,
)
from specrouter_dist.config import EdgeKnobs, Plan
from specrouter_dist.routing.planner import Candidate, to_plan
from specrouter_dist.simulation.oracle import Oracle
from specrouter_dist.simulation.profile import DEFAULT_RUNNER_UP_AGREEMENT, load_profile
from specrouter_dist.simulation.recorded import Recording
from specrouter_dist.speculation.forks import Draw
from specrouter_dist.speculation.messages import TOKEN_TYPECODE
from specrouter_dist.speculation.tokens import TokenBuffer
from tests.unit.simulation.profiles import profile

ALONE = Plan(chain=("target",))
PREPARED = Plan(chain=("small", "target"), edges=(EdgeKnobs(outcomes=4),))
AHEAD = to_plan(Candidate(("small", "target"), (4,), 1e4, (True,)), 0)


def recordings(agreement: float, burstiness: float, count: int = 40) -> list[Recording]:
    """Texts drawn from the law that a profile states; runner-ups are right as often as assumed."""
    oracle = Oracle(profile(agreements={("small", "target"): agreement}, burstiness=burstiness))
    found = []
    for session in range(count):
        prompt, text = oracle.prompt(session), oracle.text(session, 401)
        first_hash = TokenBuffer(prompt).hash_at(1)
        target = text.picks(1, 1, first_hash, num_drafts=399)
        small = text.picks(0, 1, first_hash, target[:-1])
        stream = TokenBuffer([*prompt, *target])
        draws = [text.draw(0, 1, i, stream.hash_at(i)) for i in range(1, len(stream))]
        found.append(Recording(prompt, (small, target), {0: draws}))
    return found


def said(**changes: Any) -> dict[str, Any]:
    members = [
        {
            "name": name,
            "forward_us": {"1": us, "5": 1.4 * us, "17": 2.6 * us},
            "drafting_us": {"1": 1.1 * us, "8": 4.6 * us},
        }
        for name, us in (("small", 1e3), ("target", 1e4))
    ]
    hops = [{"draft": "small", "verifier": "target", "us": 300.0}]
    slowdowns = [{"beside": "small", "member": "target", "ratio": 1.5}]
    return {"members": members, "hops": hops, "slowdowns": slowdowns} | changes


@pytest.mark.parametrize(("agreement", "burstiness"), [(0.7, 0.0), (0.7, 0.6), (0.4, 0.8)])
def test_agreement_and_burstiness_are_found_again(agreement: float, burstiness: float) -> None:
    same, bursty = agreement_of(recordings(agreement, burstiness), 0, 1)
    assert same == pytest.approx(agreement, abs=0.03)
    assert bursty == pytest.approx(burstiness, abs=0.15)


def test_what_runner_ups_are_worth_is_found_again() -> None:
    found = runner_up_agreement_of(recordings(0.7, 0.5), 0, 1)
    assert found == pytest.approx(DEFAULT_RUNNER_UP_AGREEMENT, abs=0.03)


def test_members_count_only_where_they_were_used() -> None:
    idle = said(hops=[{"draft": "small", "verifier": "target", "us": 9e9}])
    idle["members"][0]["forward_us"] = {"1": 9e9}
    times = Times.of([(AHEAD, said()), (ALONE, idle), (ALONE, idle)])
    assert times.forwards["small"][1] == 1e3
    assert times.hops == {("small", "target"): 300.0}


def test_the_profile_can_be_read_and_simulated(tmp_path: Path) -> None:
    times = Times.of([(AHEAD, said())])
    devices = {"small": "small", "target": "target"}
    made = make_profile("live", times, recordings(0.7, 0.5), devices)
    file = tmp_path / "live.yaml"
    file.write_text(yaml.safe_dump(made.model_dump(exclude_defaults=True)), encoding="utf-8")
    assert load_profile(str(file)) == made
    Oracle(made)
    assert made.one_way_us("small", "target") == 150.0
    assert made.member("small").draft_us(1) == pytest.approx(500.0)
    # 1.6 us over 16 rows, and so on for the piece of a prompt.
    assert made.target.step.us(128, 1) == pytest.approx(1e4 * (1 + 1.6 / 16 * 127))


def test_a_plan_finds_its_drafter_as_timed_drafting_and_its_verifier_slowed_down() -> None:
    times = Times.of([(AHEAD, said())])
    draws = [Draw(2, None, math.inf), Draw(3, None, math.inf)]
    texts = [
        Recording(array(TOKEN_TYPECODE, [1]), (array(TOKEN_TYPECODE, [2, 3]),) * 2, {0: draws})
    ]
    made = make_profile("live", times, texts, {"small": "a", "target": "b"})
    ahead, alone = for_plan(made, times, AHEAD), for_plan(made, times, ALONE)
    prepared = for_plan(made, times, PREPARED)
    assert ahead.member("small").step.us(1, 1) == pytest.approx(1.1e3)
    assert ahead.target.step.us(5, 1) == prepared.target.step.us(5, 1) == pytest.approx(1.5 * 1.4e4)
    # By itself it draws several tokens in a step, which are timed by themselves.
    assert alone.target.step.us(1, 1) == pytest.approx(1.1e4)
    assert alone.target.draft_us(1) == pytest.approx(0.5e4)


def test_a_target_that_draws_one_token_in_a_step_has_a_profile() -> None:
    content = said()
    content["members"][1]["drafting_us"] = {"1": 1e4, "8": 1e4}
    times = Times.of([(AHEAD, content)])
    made = make_profile("live", times, recordings(0.7, 0.0, 2), {"small": "a", "target": "b"})
    assert made.target.draft_us(1) == pytest.approx(1e4)
