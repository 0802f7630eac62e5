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

from specrouter_dist.actors.metric_names import ALL_METRICS
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
