"""``/metrics``: what clients and dashboards of vLLM read, and what every level did."""

import pickle
import threading
import time
from array import array
from collections.abc import Iterable, Sequence

import pytest
from fastapi import FastAPI
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from specrouter_dist.config import SamplingParams
from specrouter_dist.links.control import Failed, Submit
from specrouter_dist.serving.exposition import merged, to_text
from specrouter_dist.serving.metrics import ServiceMetrics
from specrouter_dist.serving.results import (
    GenerateRequest,
    GenerateResult,
    GenerationMetrics,
    LevelMetrics,
    SpeculationMetrics,
)
from specrouter_dist.serving.target_metrics import target_families
from specrouter_dist.speculation.messages import TOKEN_TYPECODE
from specrouter_dist.worker.status import Status
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
        "request_queue_time",
        "request_prefill_time",
        "request_decode_time",
    ):
        assert found[f"vllm:{name}_seconds_count",] == 3
    assert found["vllm:request_prefill_time_seconds_sum",] == 3 * 0.0025
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
    assert found["specrouter:level_proposed_total", "small", "1", "target"] == 18
    assert found["specrouter:level_accepted_total", "small", "1", "target"] == 8
    assert found["specrouter:level_rounds_total", "small", "1", "target"] == 6
    assert found["specrouter:level_truncations_total", "small", "1", "target"] == 4
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
    speculation = SpeculationMetrics(((len(histogram), (*histogram, 0)),))
    tokens = array(TOKEN_TYPECODE, [1])
    metrics.on_end(
        GenerateRequest(tokens, SamplingParams()),
        GenerateResult(
            "", tokens, 0, "stop", ("target",), GenerationMetrics(1.0, 1.0, None, speculation)
        ),
    )
    found = parsed(to_text(metrics.families(num_running=0, num_waiting=0)).decode())
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


def ended(metrics: ServiceMetrics, levels: Sequence[LevelMetrics] = ()) -> None:
    tokens = array(TOKEN_TYPECODE, [1])
    found = GenerationMetrics(1.0, 1.0, None, levels=tuple(levels))
    metrics.on_end(
        GenerateRequest(tokens, SamplingParams()),
        GenerateResult("", tokens, 0, "stop", ("target",), found),
    )


def test_a_pair_is_told_apart_by_its_level() -> None:
    """1 is the lowest; a verifier's own text is a second drafter of the same level."""
    metrics = ServiceMetrics("tiny")
    upper = LevelMetrics("medium", "target", 4, 3, 1, 1)
    ended(metrics, [upper])
    own = LevelMetrics("own text", "medium", 2, 2, 1, 0)
    ended(metrics, [own, LevelMetrics("small", "medium", 6, 5, 2, 1), upper])
    found = parsed(to_text(metrics.families(num_running=0, num_waiting=0)).decode())
    proposed = {key[1:]: found[key] for key in found if key[0] == "specrouter:level_proposed_total"}
    assert proposed == {
        ("medium", "1", "target"): 4,
        ("own text", "1", "medium"): 2,
        ("small", "1", "medium"): 6,
        ("medium", "2", "target"): 4,
    }


def test_what_replicas_tell_adds_up_whichever_is_asked() -> None:
    first, second = ServiceMetrics("tiny"), ServiceMetrics("tiny")
    for metrics in (first, first, second):
        ended(metrics)
    shares = [
        (name, metrics.families(num_running=num_running, num_waiting=0))
        for name, metrics, num_running in (("a", first, 3), ("b", second, 4))
    ]
    # They come from other processes.
    text = to_text(merged(pickle.loads(pickle.dumps(shares)))).decode()
    found = parsed(text)
    assert found["vllm:request_success_total", "stop", "a"] == 2
    assert found["vllm:request_success_total", "stop", "b"] == 1
    assert found["vllm:num_requests_running", "a"] == 3
    assert found["vllm:num_requests_running", "b"] == 4
    assert found["vllm:e2e_request_latency_seconds_bucket", "+Inf", "a"] == 2
    # One family each, as the format wants it.
    assert text.count("# TYPE vllm:request_success_total counter") == 1


def test_the_target_tells_of_its_cache() -> None:
    status = Status(kv_share=0.25, num_prefix_queries=640, num_prefix_hits=128)
    assert parsed(to_text(target_families("tiny", status)).decode()) == {
        ("vllm:kv_cache_usage_perc",): 0.25,
        ("vllm:prefix_cache_queries_total",): 640,
        ("vllm:prefix_cache_hits_total",): 128,
    }
