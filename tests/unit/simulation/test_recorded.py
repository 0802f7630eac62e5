"""Pools that write recorded texts: what is verified is what was recorded."""

from array import array
from collections.abc import Sequence
from math import inf
from typing import Any

import pytest

from specrouter_dist.config import EdgeKnobs, LookupMember, Plan
from specrouter_dist.routing.observations import Survival
from specrouter_dist.routing.replay import own_text_names
from specrouter_dist.simulation.recorded import Recording
from specrouter_dist.simulation.results import Results
from specrouter_dist.simulation.world import World
from specrouter_dist.speculation.forks import Draw
from specrouter_dist.speculation.messages import TOKEN_TYPECODE, TokenArray
from tests.unit.simulation.profiles import lock_step, profile, workload

NAMES = ("small", "medium", "target")
PROMPT = range(100, 108)
LOOKUP = LookupMember(kind="lookup", min_match_tokens=2)


def tokens(values: Sequence[int]) -> TokenArray:
    return array(TOKEN_TYPECODE, values)


def run(
    plan: Plan,
    *by_member: Sequence[int],
    prompt: Sequence[int] = PROMPT,
    **changes: Any,
) -> Results:
    recording = Recording(tokens(prompt), tuple(tokens(picks) for picks in by_member))
    load = workload(1, prompt_tokens=len(prompt), output_tokens=recording.num_output_tokens)
    names = NAMES[-len(by_member) :]
    # Not validated: the plan may name a lookup.
    pool = profile(names, workload=load, **changes).model_copy(update={"plan": plan})
    world = World(pool, recording, {"lookup": LOOKUP})
    return world.run()


def test_rounds_end_where_the_recorded_picks_differ() -> None:
    target = list(range(1, 14))
    small = [t if t not in (5, 6) else 99 for t in target]
    results = run(lock_step("medium", "target", lengths=(4,)), small, target)
    # 1 with the prompt; 2 3 4 and the recovered 5; the recovered 6; 7 to 10 and 11; 12 and 13.
    assert results.num_tokens == 13
    assert results.work["target"].num_steps == 5


def test_a_middle_stage_off_the_targets_text_picks_as_on_it() -> None:
    target = [1, 2, 3, 4, 5, 6, 7, 8, 9]
    medium = [1, 2, 33, 4, 5, 6, 7, 8, 9]
    # At the third position both drafters err, and they agree: the middle accepts the whole block.
    plan = lock_step("small", "medium", "target", lengths=(4, 5))
    results = run(plan, medium, medium, target)
    assert results.work["target"].num_steps == 3
    assert results.mean_acceptance_length == 3.0


@pytest.mark.parametrize("hop_us", [0.0, 2000.0])
def test_a_lookup_proposes_on_the_device_of_its_downstream(hop_us: float) -> None:
    repeated = [1, 2, 3, 4, 5, 6, 7, 8]
    knobs = EdgeKnobs(window=4, burst=4, patience=4, patience_ms=1e6)
    plan = Plan(chain=("lookup", "target"), edges=(knobs,))
    results = run(plan, repeated, repeated, prompt=[*repeated, 50], hop_us=hop_us)
    # 1 and 2 match nothing that goes on; then 3 to 6 are found, and 7 is the bonus; then 8.
    assert results.work["target"].num_steps == 4
    assert results.duration_s * 1e3 == pytest.approx(4 * 10.0)


@pytest.mark.parametrize("match_tokens", [2, 0])
def test_a_middle_stage_continues_its_own_text(match_tokens: int) -> None:
    """What its drafter says is always wrong; the text is the prompt's once more, and one token."""
    repeated = [1, 2, 3, 4, 5, 6, 7, 8]
    target = tokens([*repeated, 60])
    recording = Recording(tokens([*repeated, 50]), (tokens([99] * 9), target, target))
    plan = lock_step("small", "medium", "target", lengths=(4, 9))
    middle = plan.edges[0].model_copy(update={"match_tokens": match_tokens})
    plan = plan.model_copy(update={"edges": (middle, plan.edges[1])})
    load = workload(1, prompt_tokens=9, output_tokens=9)
    world = World(profile(NAMES, workload=load, plan=plan), recording)
    world.run()
    found = {(k.draft, k.verifier): seen for k, seen in world._observations.pairs.items()}
    if not match_tokens:
        assert set(found) == {("small", "medium"), ("medium", "target")}
        return
    own, beside = own_text_names("small", match_tokens)
    drafts = {"small", own, beside}
    assert set(found) == {("medium", "target"), *((draft, "medium") for draft in drafts)}
    # 1 with the prompt; 2, where the drafter is asked and wrong; 3 to 6 are found, and 7 is the
    # bonus; 8 is found, and 60.
    assert found[own, "medium"] == Survival([2, 1, 1, 1], [2, 1, 1, 1], 4, num_empty=2)
    assert found[beside, "medium"] == Survival([1, 0, 0, 0], [0, 0, 0, 0], 2, num_empty=1)


@pytest.mark.parametrize(("runner_up", "drafting_ms"), [(5, 0), (77, 4)])
def test_answers_are_prepared_with_the_recorded_runner_ups(
    runner_up: int, drafting_ms: float
) -> None:
    target = list(range(1, 14))
    draws = [Draw(t, None, inf) if t != 5 else Draw(99, runner_up, 0.1) for t in target]
    drafted = tokens([draw.token for draw in draws])
    recording = Recording(tokens(PROMPT), (drafted, tokens(target), tokens(target)), {0: draws})
    knobs = EdgeKnobs(window=4, burst=4, patience=4, patience_ms=1e6, outcomes=2)
    plan = Plan(chain=("small", "target"), edges=(knobs,))
    load = workload(1, output_tokens=len(target))
    results = World(profile(NAMES, workload=load, plan=plan), recording).run()
    # 1 with the prompt; 2 3 4 and the recovered 5; 6 to 9 and 10; 11, 12 and 13.
    assert results.work["target"].num_steps == 4
    assert results.duration_s * 1e3 == pytest.approx(4 * 10.0 + drafting_ms)


def test_nothing_is_known_beyond_the_recorded_text() -> None:
    recording = Recording(tokens([1]), (tokens([2, 3]),))
    assert recording.picks(0, 1, 0, num_drafts=1) == tokens([2, 3])
    with pytest.raises(AssertionError, match="nobody"):
        recording.picks(0, 1, 0, num_drafts=2)
