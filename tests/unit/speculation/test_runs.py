"""How many tokens a target alone draws in one step."""

from array import array

import pytest

from specrouter_dist.config import EdgeKnobs
from specrouter_dist.engine.interface import Extension
from specrouter_dist.speculation.ending import StopIds
from specrouter_dist.speculation.messages import TOKEN_TYPECODE, EdgeId
from specrouter_dist.speculation.runs import Runs, run_tokens
from specrouter_dist.speculation.stage import Stage

PROMPT_TOKENS = 10


def stage(*, kv_len: int = PROMPT_TOKENS, has_drafter: bool = False) -> Stage:
    prompt = array(TOKEN_TYPECODE, [1] * PROMPT_TOKENS + [2])
    made = Stage(prompt, prompt_tokens=PROMPT_TOKENS, kv_len=kv_len, end=99, ending=StopIds(()))
    if has_drafter:
        made.attach_upstream(EdgeId(1, 1, 1), EdgeKnobs(window=4, burst=4, patience=4))
    return made


def step(num_drafts: int = 0, num_tokens: int = 1) -> Extension:
    return Extension(0, 10, array(TOKEN_TYPECODE, [1] * num_tokens), 1, num_drafts)


def allowed(runs: Runs, *stages: Stage) -> list[int]:
    runs.allow(stages)
    return [each.max_drafts for each in stages]


@pytest.mark.parametrize(
    ("token_us", "num_tokens"),
    [(0.0, 8), (400.0, 8), (1300.0, 4), (2400.0, 4), (2600.0, 2), (5001.0, 1), (30_000.0, 1)],
)
def test_as_many_as_go_into_ten_milliseconds(token_us: float, num_tokens: int) -> None:
    assert run_tokens(token_us) == num_tokens


def test_one_until_a_step_was_timed() -> None:
    assert allowed(Runs(), stage()) == [1]


def test_the_time_is_per_token_and_follows_what_is_observed() -> None:
    runs = Runs()
    runs.note([step(7), step(3)], 8 * 1000.0)
    assert allowed(runs, stage(), stage()) == [8, 8]
    for _ in range(30):
        runs.note([step()], 4000.0)
    assert allowed(runs, stage()) == [2]


def test_prompts_and_verifies_are_not_timed() -> None:
    runs = Runs()
    runs.note([step()], 400.0)
    for _ in range(30):
        runs.note([step(), step(num_tokens=128)], 60_000.0)
    assert allowed(runs, stage()) == [8]


@pytest.mark.parametrize("other", [stage(kv_len=PROMPT_TOKENS - 1), stage(has_drafter=True)])
def test_nobody_with_a_prompt_or_a_drafter_waits_for_the_tokens_of_others(other: Stage) -> None:
    runs = Runs()
    runs.note([step()], 400.0)
    assert allowed(runs, stage(), other) == [1, 1]
    assert allowed(runs, stage()) == [8]
