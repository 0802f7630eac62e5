"""How many tokens a target alone draws in one step."""

from array import array
from types import SimpleNamespace
from typing import Any

import pytest

from specrouter_dist.engine.interface import Extension
from specrouter_dist.speculation.messages import TOKEN_TYPECODE
from specrouter_dist.speculation.steps import run_tokens
from specrouter_dist.worker.runs import Runs

PROMPT_TOKENS = 10


def session(*, kv_len: int = PROMPT_TOKENS, up: object = None) -> Any:
    stage = SimpleNamespace(up=up, kv_len=kv_len, max_drafts=1)
    return SimpleNamespace(model_stage=stage, prompt_tokens=PROMPT_TOKENS)


def step(num_drafts: int = 0, num_tokens: int = 1) -> Extension:
    return Extension(0, 10, array(TOKEN_TYPECODE, [1] * num_tokens), 1, num_drafts)


def allowed(runs: Runs, *sessions: Any) -> list[int]:
    runs.allow(sessions)
    return [each.model_stage.max_drafts for each in sessions]


@pytest.mark.parametrize(
    ("token_us", "num_tokens"),
    [(0.0, 8), (400.0, 8), (1300.0, 4), (2400.0, 4), (2600.0, 2), (5001.0, 1), (30_000.0, 1)],
)
def test_as_many_as_go_into_ten_milliseconds(token_us: float, num_tokens: int) -> None:
    assert run_tokens(token_us) == num_tokens


def test_one_until_a_step_was_timed() -> None:
    assert allowed(Runs(), session()) == [1]


def test_the_time_is_per_token_and_follows_what_is_observed() -> None:
    runs = Runs()
    runs.note([step(7), step(3)], 8 * 1000.0)
    assert allowed(runs, session(), session()) == [8, 8]
    for _ in range(30):
        runs.note([step()], 4000.0)
    assert allowed(runs, session()) == [2]


def test_prompts_and_verifies_are_not_timed() -> None:
    runs = Runs()
    runs.note([step()], 400.0)
    for _ in range(30):
        runs.note([step(), step(num_tokens=128)], 60_000.0)
    assert allowed(runs, session()) == [8]


@pytest.mark.parametrize("other", [session(kv_len=PROMPT_TOKENS - 1), session(up=object())])
def test_nobody_with_a_prompt_or_a_drafter_waits_for_the_tokens_of_others(other: Any) -> None:
    runs = Runs()
    runs.note([step()], 400.0)
    assert allowed(runs, session(), other) == [1, 1]
    assert allowed(runs, session()) == [8]
