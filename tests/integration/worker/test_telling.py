"""What a target's worker tells of requests that end: log lines, spans, and how it is."""

import queue
import time
from array import array
from collections.abc import Iterator

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from specrouter_dist.config import SamplingParams
from specrouter_dist.links.control import Failed, Submit
from specrouter_dist.observability.spans import close_spans, export_spans
from specrouter_dist.speculation.messages import TOKEN_TYPECODE
from specrouter_dist.worker.posts import Call
from specrouter_dist.worker.status import Status
from tests.integration.worker.toys import WAIT_S, Toys, plan

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
PARTS = ["queue", "prefill", "decode"]


@pytest.fixture
def toys() -> Iterator[Toys]:
    toys = Toys(["small", "target"], max_sessions=1)
    yield toys
    toys.stop()


@pytest.fixture
def exported() -> Iterator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    export_spans("target", SimpleSpanProcessor(exporter))
    yield exporter
    close_spans()


def submit(toys: Toys, request: int, prompt: list[int], max_tokens: int = 40) -> None:
    toys.inboxes[request] = queue.SimpleQueue()
    sampling = SamplingParams(temperature=0.0, max_tokens=max_tokens, seed=7)
    toys.workers["target"].submit(
        Submit(
            request,
            array(TOKEN_TYPECODE, prompt),
            sampling,
            plan("small", "target"),
            array(TOKEN_TYPECODE),
            name=f"request-{request}",
            trace=PARENT,
        )
    )


def status(toys: Toys) -> Status:
    """Taken on the engine thread, behind all that was posted."""
    taken: queue.SimpleQueue[Status] = queue.SimpleQueue()
    worker = toys.workers["target"]
    worker.hub.post(Call(lambda: taken.put(worker.status)))
    return taken.get(timeout=WAIT_S)


def length_s(span: ReadableSpan) -> float:
    assert span.start_time is not None and span.end_time is not None
    return (span.end_time - span.start_time) / 1e9


def test_a_span_of_a_request_has_its_parts_and_its_members(
    toys: Toys, exported: InMemorySpanExporter
) -> None:
    for request in (1, 2):
        submit(toys, request, [1, 2, 3])
    outputs = [toys.collect(request) for request in (1, 2)]
    status(toys)
    spans = exported.get_finished_spans()
    wholes = [span for span in spans if span.name == "target"]
    assert [dict(w.attributes or {})["specrouter.request_id"] for w in wholes] == [
        "request-1",
        "request-2",
    ]
    for whole, (tokens, last) in zip(wholes, outputs, strict=True):
        assert whole.parent is not None and f"{whole.parent.span_id:016x}" in PARENT
        parts = [s for s in spans if s.parent and s.parent.span_id == whole.context.span_id]
        assert [part.name for part in parts] == PARTS
        assert sum(map(length_s, parts)) == pytest.approx(length_s(whole), abs=1e-6)
        attributes = dict(whole.attributes or {})
        assert attributes["specrouter.num_tokens"] == len(tokens) == 40
        assert last.stats is not None
        assert attributes["specrouter.num_rounds"] == last.stats["num_rounds"]
        assert attributes["specrouter.small>target.rounds"] > 0  # type: ignore[operator]
    # The second had to wait for the first.
    assert last.stats["queued_us"] > 0  # type: ignore[operator]


def test_a_refused_request_is_a_span_with_its_error(
    toys: Toys, exported: InMemorySpanExporter
) -> None:
    submit(toys, 1, [1 << 20])
    assert isinstance(toys.inboxes[1].get(timeout=WAIT_S), Failed)
    (span,) = exported.get_finished_spans()
    assert span.status.description == "RequestError"


def test_status_counts_what_runs_waits_and_was_put_out(toys: Toys) -> None:
    assert status(toys) == Status()
    for request in (1, 2):
        submit(toys, request, [1, 2, 3], max_tokens=2000)
    busy = status(toys)
    assert (busy.num_running, busy.num_waiting, busy.kv_share) == (1, 1, 1.0)
    assert busy.num_sessions >= 1
    for request in (2, 1):
        toys.cancel(request)
    idle = status(toys)
    assert (idle.num_running, idle.num_waiting) == (0, 0)
    submit(toys, 3, [1, 2, 3])
    toys.collect(3)
    last = status(toys)
    assert last.num_tokens - idle.num_tokens == 40
    # Of two; the other was cancelled before there was room. The toy engine keeps nothing.
    assert (last.num_prefix_queries, last.num_prefix_hits) == (6, 0)


def test_a_drafter_has_one_span_from_the_beginning_of_its_drafting_to_the_end(
    toys: Toys, exported: InMemorySpanExporter
) -> None:
    submit(toys, 1, [1, 2, 3])
    toys.collect(1)
    end = time.monotonic() + WAIT_S
    while not (spans := [s for s in exported.get_finished_spans() if s.name == "small"]):
        assert time.monotonic() < end
        time.sleep(0.01)
    (span,) = spans
    assert span.parent is not None and f"{span.parent.span_id:016x}" in PARENT
    assert dict(span.attributes or {})["specrouter.device_ms"] > 0  # type: ignore[operator]
    assert length_s(span) > 0
