"""The JSON of a result has vLLM's names and definitions, and no number where there is none."""

import json
from array import array

from hypothesis import given
from hypothesis import strategies as st

from specrouter_dist.routing.outline import Outline
from specrouter_dist.serving.results import (
    GenerateResult,
    GenerationMetrics,
    LevelMetrics,
    PlanUse,
    SpeculationMetrics,
)
from specrouter_dist.speculation.messages import TOKEN_TYPECODE


def result(speculation: SpeculationMetrics) -> GenerateResult:
    level = LevelMetrics(
        draft="small", verifier="target", proposed=9, accepted=6, rounds=4, truncations=2
    )
    plan = PlanUse(2, Outline(("small", "medium", "target"), (3, 4), (6, 7), (True, False), (0, 3)))
    return GenerateResult(
        text="hé",
        token_ids=array(TOKEN_TYPECODE, [7, 8, 9, 0]),
        seed=(1 << 64) - 1,
        finish_reason="stop",
        chain=("small", "target"),
        metrics=GenerationMetrics(10.0, 30.0, 2.5, speculation, (level,), 5, (plan,)),
    )


def test_a_result_has_the_promised_fields() -> None:
    content = result(SpeculationMetrics(9, (1, 1, 1, 1))).to_json({"id": "x", "text": "mine"})
    assert json.loads(json.dumps(content)) == {
        "id": "x",
        "text": "hé",
        "token_ids": [7, 8, 9, 0],
        "seed": (1 << 64) - 1,
        "finish_reason": "stop",
        "chain": ["small", "target"],
        "metrics": {
            "time_to_first_token_ms": 10.0,
            "generation_time_ms": 30.0,
            "tokens_per_second": 100.0,
            "device_ms_per_token": 2.5,
            "speculative_decoding": {
                "mean_acceptance_length": 2.5,
                "draft_acceptance_rate": 6 / 9,
                "acceptance_histogram": [1, 1, 1, 1],
                "num_spec_steps": 4,
                "num_draft_tokens": 9,
                "num_accepted_draft_tokens": 6,
            },
            "levels": [
                {
                    "draft": "small",
                    "verifier": "target",
                    "proposed": 9,
                    "accepted": 6,
                    "rounds": 4,
                    "truncations": 2,
                }
            ],
            "num_rounds": 5,
            "queue_time_ms": 0.0,
            "plans": [
                {
                    "after_rounds": 2,
                    "chain": ["small", "medium", "target"],
                    "num_draft_tokens": [3, 4],
                    "burst_tokens": [6, 7],
                    "drafts_ahead": [True, False],
                    "match_tokens": [0, 3],
                }
            ],
            "task": None,
        },
    }


def test_without_steps_there_are_no_rates() -> None:
    speculation = SpeculationMetrics().to_json()
    assert speculation["mean_acceptance_length"] is None
    assert speculation["draft_acceptance_rate"] is None
    assert speculation["num_spec_steps"] == 0


@given(st.lists(st.integers(0, 8), min_size=1))
def test_the_histogram_gives_steps_accepted_and_mean(accepted: list[int]) -> None:
    histogram = tuple(accepted.count(j) for j in range(max(accepted) + 1))
    speculation = SpeculationMetrics(
        num_draft_tokens=8 * len(accepted), acceptance_histogram=histogram
    )
    assert speculation.num_spec_steps == len(accepted)
    assert speculation.num_accepted_draft_tokens == sum(accepted)
    assert speculation.mean_acceptance_length == 1 + sum(accepted) / len(accepted)
