"""``/metrics``: what clients and dashboards of vLLM read, and what every level did."""

import threading
import time
from array import array
from collections.abc import Iterable

import pytest
from fastapi import FastAPI
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from specrouter_dist.config import SamplingParams
from specrouter_dist.links.control import Failed, Submit
from specrouter_dist.serving.metrics import ServiceMetrics
from specrouter_dist.serving.results import (
    GenerateRequest,
    GenerateResult,
    GenerationMetrics,
    SpeculationMetrics,
)
from specrouter_dist.speculation.messages import TOKEN_TYPECODE
from tests.unit.serving.asgi import call, call_and_hang_up
from tests.unit.serving.calls import COMPLETIONS, chat, complete
from tests.unit.serving.scripted import Message, ScriptedClient, output

Key = tuple[str, ...]


def parsed(text: str) -> dict[Key, float]:
    """Samples by name and label values (in the order of their names), the model's left out."""
    return {
        (
            sample.name,
            *(value for key, value in sorted(sample.labels.items()) if key != "model_name"),
        ): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def samples(app: FastAPI) -> dict[Key, float]:
    reply = call(app, "GET", "/metrics")
    assert reply.status == 200
    assert reply.headers["content-type"].startswith("text/plain")
    return parsed(reply.body.decode())


def test_ended_requests_are_counted_under_vllms_names(app: FastAPI) -> None:
    complete(app, prompt=[40, 41, 42], n=2)
    assert chat(app, stream=True).status == 200
    found = samples(app)
    assert found["vllm:request_success_total", "length"] == 3
    assert found["vllm:generation_tokens_total",] == 18
    assert found["vllm:prompt_tokens_total",] > 6
    for name in (
        "time_to_first_token",
        "inter_token_latency",
        "time_per_output_token",
        "e2e_request_latency",
    ):
        assert found[f"vllm:{name}_seconds_count",] == 3
    assert found["vllm:num_requests_running",] == found["vllm:num_requests_waiting",] == 0


def test_proposals_are_counted_by_target_and_by_pair(app: FastAPI) -> None:
    complete(app)
    complete(app)
    found = samples(app)
    # Twice: three verifies, which accepted 0, 2 and 2 of 9.
    assert found["vllm:spec_decode_num_drafts_total",] == 6
    assert found["vllm:spec_decode_num_draft_tokens_total",] == 18
    assert found["vllm:spec_decode_num_accepted_tokens_total",] == 8
    per_position = "vllm:spec_decode_num_accepted_tokens_per_pos_total"
    assert [found[per_position, position] for position in "01"] == [4, 4]
    assert found["specrouter:level_proposed_total", "small", "target"] == 18
    assert found["specrouter:level_accepted_total", "small", "target"] == 8
    assert found["specrouter:level_rounds_total", "small", "target"] == 6
    assert found["specrouter:level_truncations_total", "small", "target"] == 4
    assert found["specrouter:requests_total", "small>target"] == 2


def test_a_bench_sums_the_lines_as_they_stand(app: FastAPI) -> None:
    complete(app)
    lines = call(app, "GET", "/metrics").body.decode().splitlines()
    sums = [line for line in lines if line.startswith("vllm:spec_decode") and "_total" in line]
    assert 'vllm:spec_decode_num_drafts_total{model_name="tiny"} 3.0' in sums
    assert any('position="1"' in line for line in sums)


@given(st.lists(st.integers(0, 9), max_size=8))
def test_positions_sum_up_to_what_was_accepted(histogram: list[int]) -> None:
    metrics = ServiceMetrics("tiny")
    speculation = SpeculationMetrics(0, tuple(histogram))
    tokens = array(TOKEN_TYPECODE, [1])
    metrics.on_end(
        GenerateRequest(tokens, SamplingParams()),
        GenerateResult(
            "", tokens, 0, "stop", ("target",), GenerationMetrics(1.0, 1.0, None, speculation)
        ),
    )
    found = parsed(metrics.text(num_running=0, num_waiting=0).decode())
    by_position = [value for key, value in found.items() if key[0].endswith("per_pos_total")]
    assert sum(by_position) == speculation.num_accepted_draft_tokens
    assert by_position == sorted(by_position, reverse=True)


@pytest.mark.parametrize("stream", [False, True])
def test_what_fails_or_is_left_is_aborted(
    app: FastAPI, client: ScriptedClient, stream: bool
) -> None:
    never = threading.Event()

    def goes_on(submit: Submit) -> Iterable[Message]:
        yield output(submit, 0, [10])
        never.wait(10)

    client.script = goes_on
    body = {"prompt": "Hello", "stream": stream, "n": 2}
    call_and_hang_up(app, COMPLETIONS, body, after_parts=int(stream))
    never.set()
    client.script = lambda submit: [Failed(submit.request, "NoRoomError", "full")]
    complete(app, stream=stream)
    found = samples(app)
    assert found["vllm:request_success_total", "abort"] == 3
    assert found["vllm:num_requests_running",] == found["vllm:num_requests_waiting",] == 0
    assert ("vllm:request_success_total", "length") not in found


def test_what_runs_and_what_waits_is_told(app: FastAPI, client: ScriptedClient) -> None:
    told = threading.Event()
    seen: list[tuple[float, float]] = []

    def state() -> tuple[float, float]:
        found = samples(app)
        return found["vllm:num_requests_running",], found["vllm:num_requests_waiting",]

    def looks(submit: Submit) -> Iterable[Message]:
        if submit.prompt[0] == 40:
            seen.append(state())
            yield output(submit, 0, [10])
            assert told.wait(10)
            yield output(submit, 1, [11], "length")
            return
        end = time.monotonic() + 10
        while state() != (1, 1):
            assert time.monotonic() < end
        told.set()
        yield output(submit, 0, [10], "length")

    client.script = looks
    assert complete(app, prompt=[[40], [41]]).status == 200
    assert seen == [(0, 2)]
    assert state() == (0, 0)


def test_probes_of_health_are_no_traffic(app: FastAPI) -> None:
    assert call(app, "GET", "/health").status == 200
    assert ("vllm:request_success_total", "length") not in samples(app)
