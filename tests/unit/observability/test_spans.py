"""Spans of requests: parts, parents, and that nothing is there where nobody asks."""

import subprocess
import sys
from collections.abc import Iterator

import pytest
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from specrouter_dist.errors import ConfigError
from specrouter_dist.observability.spans import (
    ENDPOINTS,
    begin_span,
    close_spans,
    configure_spans,
    export_spans,
)
from tests.collector import collecting

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def exported() -> Iterator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    export_spans("target", SimpleSpanProcessor(exporter))
    yield exporter
    close_spans()


def test_a_span_belongs_to_its_parent_and_holds_its_parts(exported: InMemorySpanExporter) -> None:
    span = begin_span("target", PARENT, ago_s=2.0)
    assert span is not None
    span.part("queue", 2.0, 1.5)
    span.end({"rounds": 3, "nothing": None}, "UnavailableError")
    queue, whole = exported.get_finished_spans()
    assert whole.parent is not None and queue.parent is not None
    assert f"{whole.context.trace_id:032x}" in PARENT and f"{whole.parent.span_id:016x}" in PARENT
    assert queue.parent.span_id == whole.context.span_id
    assert span.traceparent == f"{PARENT[:36]}{whole.context.span_id:016x}-01"
    assert dict(whole.attributes or {}) == {"rounds": 3}
    assert whole.status.description == "UnavailableError"
    for one, length_s in ((queue, 0.5), (whole, 2.0)):
        assert one.start_time is not None and one.end_time is not None
        assert abs((one.end_time - one.start_time) / 1e9 - length_s) < 0.2
    assert whole.resource.attributes["service.instance.id"] == "target"


@pytest.mark.parametrize("parent", ["", "nonsense"])
def test_without_a_valid_parent_it_begins_a_trace(
    exported: InMemorySpanExporter, parent: str
) -> None:
    span = begin_span("ingress", parent)
    assert span is not None
    span.end({})
    assert exported.get_finished_spans()[0].parent is None


def test_without_a_collector_nothing_is_imported() -> None:
    code = (
        "import sys; from specrouter_dist.observability.spans import *; configure_spans('x');"
        "assert begin_span('x') is None; print([m for m in sys.modules if 'opentel' in m])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (result.returncode, result.stdout.strip()) == (0, "[]"), result.stderr


def test_a_collector_without_an_exporter_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENDPOINTS[1], "http://127.0.0.1:1")
    exporter = "opentelemetry.exporter.otlp.proto.http.trace_exporter"
    monkeypatch.setitem(sys.modules, exporter, None)
    with pytest.raises(ConfigError, match=r"specrouter-dist\[otel\]"):
        configure_spans("x")


def test_spans_reach_a_collector(monkeypatch: pytest.MonkeyPatch) -> None:
    with collecting() as collector:
        monkeypatch.setenv(ENDPOINTS[0], collector.endpoint)
        configure_spans("ingress")
        span = begin_span("/v1/completions")
        assert span is not None
        span.end({"specrouter.num_tokens": 6})
        close_spans()
    ((process, received),) = collector.spans()
    assert (process, received.name) == ("ingress", "/v1/completions")
