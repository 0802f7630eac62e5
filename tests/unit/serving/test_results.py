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

HISTOGRAMS = ((1, (1, 0)), (2, (0, 1, 0)), (3, (0, 0, 1, 1)))


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
    content = result(SpeculationMetrics(HISTOGRAMS)).to_json({"id": "x", "text": "mine"})
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
                "acceptance_histogram_by_draft_length": {
                    "1": [1, 0],
                    "2": [0, 1, 0],
                    "3": [0, 0, 1, 1],
                },
                "num_spec_steps": 4,
                "num_draft_tokens": 9,
                "num_accepted_draft_tokens": 6,
                "num_spec_tokens": 3,
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
    # As vLLM has it: a request that drafted nothing has all zeros.
    assert (speculation["acceptance_histogram"], speculation["num_spec_tokens"]) == ([0], 0)
    assert speculation["acceptance_histogram_by_draft_length"] == {}


@given(st.lists(st.tuples(st.integers(0, 8), st.integers(1, 8)), min_size=1))
def test_the_histograms_give_steps_proposed_accepted_and_mean(steps: list[tuple[int, int]]) -> None:
    """``steps``: how many were accepted, and proposed."""
    steps = [(min(one), one[1]) for one in steps]
    speculation = SpeculationMetrics(
        tuple(
            (num, tuple(steps.count((j, num)) for j in range(num + 1)))
            for num in sorted({num for _, num in steps})
        )
    )
    num_accepted = sum(accepted for accepted, _ in steps)
    assert speculation.num_spec_steps == len(steps)
    assert speculation.num_draft_tokens == sum(num for _, num in steps)
    assert speculation.num_accepted_draft_tokens == num_accepted
    assert speculation.mean_acceptance_length == 1 + num_accepted / len(steps)
    content = speculation.to_json()
    # What aiperf refuses an answer for.
    assert len(content["acceptance_histogram"]) == content["num_spec_tokens"] + 1
    rows = content["acceptance_histogram_by_draft_length"].values()
    assert sum(map(sum, rows)) == sum(content["acceptance_histogram"])
