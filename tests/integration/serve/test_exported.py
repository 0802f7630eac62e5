"""What a running service tells of itself: log lines of every process, and Ray's metrics."""

import json
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
import ray
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from specrouter_dist.actors.metric_names import ALL_METRICS
from tests.collector import Collector
from tests.integration.serve.running import PROMPT, NumSessions, Server

pytestmark = [pytest.mark.ray, pytest.mark.timeout(400)]

LOGS = Path("/tmp/ray/session_latest/logs")


def log_lines(request_id: str) -> Iterator[dict[str, Any]]:
    for path in LOGS.glob("worker-*.err"):
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            if request_id in line:
                yield json.loads(line)


def test_a_request_is_a_line_at_the_ingress_and_one_at_the_target(client: openai.OpenAI) -> None:
    answer = client.completions.create(
        model="tiny",
        prompt=PROMPT,
        max_tokens=8,
        extra_body={"ignore_eos": True, "speculative": {"chain": ["small", "target"]}},
        extra_headers={"X-Request-Id": "seen-in-logs"},
    )
    assert answer.id == "cmpl-seen-in-logs"
    end = time.monotonic() + 10.0
    lines: list[dict[str, Any]] = []
    while {line["process"] for line in lines} != {"ingress", "target"}:
        assert time.monotonic() < end, lines
        time.sleep(0.1)
        lines = list(log_lines("seen-in-logs"))
    ingress, target = sorted(lines, key=lambda line: str(line["process"]))
    assert (ingress["status"], ingress["num_tokens"]) == (200, 8)
    assert (target["status"], target["num_tokens"]) == ("length", 8)
    assert ingress["chains"] == [target["chain"]] == ["small>target"]
    assert PROMPT not in json.dumps(lines)


def test_ray_exports_the_metrics_of_workers_and_router(
    server: Server, num_sessions: NumSessions, client: openai.OpenAI
) -> None:
    (node,) = ray.nodes()
    url = f"http://127.0.0.1:{node['MetricsExportPort']}/metrics"
    wanted = {metric.exported for metric in ALL_METRICS}
    end = time.monotonic() + 30.0
    while True:
        client.completions.create(
            model="tiny",
            prompt=PROMPT,
            max_tokens=64,
            extra_body={"speculative": {"chain": ["small", "medium", "target"]}},
        )
        with urllib.request.urlopen(url, timeout=30) as response:
            lines = response.read().decode().splitlines()
        found = {line.partition("{")[0] for line in lines if not line.startswith("#")}
        accepted = [
            line
            for line in lines
            if line.startswith("ray_specrouter_accepted_tokens_total")
            and 'draft="small"' in line
            and 'verifier="medium"' in line
        ]
        if wanted <= found and accepted:
            break
        assert time.monotonic() < end, wanted - found
        time.sleep(0.5)
    assert 'pool="tiny"' in accepted[0]
    assert float(accepted[0].split()[-1]) > 0


def test_a_request_is_one_trace_over_all_processes_that_took_part(
    client: openai.OpenAI, collector: Collector
) -> None:
    client.completions.create(
        model="tiny",
        prompt=PROMPT,
        max_tokens=32,
        extra_body={
            "ignore_eos": True,
            "speculative": {"chain": ["small", "medium", "target"], "num_speculative_tokens": 3},
        },
        extra_headers={"X-Request-Id": "seen-in-a-trace"},
    )
    end = time.monotonic() + 20.0
    while True:
        spans = collector.spans()
        traces = {span.trace_id for process, span in spans if is_root_of("seen-in-a-trace", span)}
        trace = [(process, span) for process, span in spans if span.trace_id in traces]
        if {"ingress", "target", "medium", "small"} <= {process for process, _ in trace}:
            break
        assert time.monotonic() < end, [(process, span.name) for process, span in trace]
        time.sleep(0.1)
    assert len(traces) == 1
    (root,) = [span for process, span in trace if process == "ingress"]
    for member in ("target", "medium", "small"):
        (whole,) = [span for _, span in trace if span.name == member]
        assert whole.parent_span_id == root.span_id
        names = {attribute.key for attribute in whole.attributes}
        # Of the pairs above it, each tells what it knows.
        assert ("specrouter.small>medium.accepted" in names) == (member != "small")
        assert root.start_time_unix_nano < whole.start_time_unix_nano < whole.end_time_unix_nano


def is_root_of(request_id: str, span: Span) -> bool:
    values = {one.key: one.value.string_value for one in span.attributes}
    return not span.parent_span_id and values.get("specrouter.request_id") == request_id
