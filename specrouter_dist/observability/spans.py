"""Spans of requests for OpenTelemetry, where its own variables name a collector.

Without one of them nothing of OpenTelemetry is imported, and a request pays for looking whether a
variable of this module is None.
"""

import os
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from specrouter_dist.errors import ConfigError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import SpanProcessor, TracerProvider

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
"""OpenTelemetry's. Its others (headers, sampler, batches) are obeyed, too."""

Attribute = str | int | float | bool | Sequence[str]
Attributes = Mapping[str, Attribute | None]
"""Those that are None are left out."""

_provider: "TracerProvider | None" = None
"""Of this process, like its loggers."""


def configure_spans(process: str) -> None:
    """Sets up this process if a variable names a collector.

    Raises:
        ConfigError: the exporter is not installed.
    """
    asking = next((name for name in ENDPOINTS if os.environ.get(name)), None)
    if asking is None:
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        raise ConfigError(
            f"{asking}: is set, and what sends spans is not installed: pip install "
            "'specrouter-dist[otel]'",
            field=asking,
        ) from None
    export_spans(process, BatchSpanProcessor(OTLPSpanExporter()))


def export_spans(process: str, processor: "SpanProcessor") -> None:
    """This process's spans go to ``processor`` from now on."""
    global _provider
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider

    close_spans()
    name = os.environ.get("OTEL_SERVICE_NAME", "specrouter")
    resource = Resource.create({"service.name": name, "service.instance.id": process})
    _provider = TracerProvider(resource=resource)
    _provider.add_span_processor(processor)


def close_spans() -> None:
    """Sends what has not been sent, and records no more."""
    global _provider
    provider, _provider = _provider, None
    if provider is not None:
        provider.shutdown()


class RequestSpan:
    """One request in this process; made by :func:`begin_span`.

    Times are told as seconds before it was made, all by one reading of the clock.
    """

    def __init__(self, provider: "TracerProvider", name: str, parent: str, ago_s: float) -> None:
        from opentelemetry.trace import SpanKind
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._propagator = TraceContextTextMapPropagator()
        self._made_ns = time.time_ns()
        self._tracer = provider.get_tracer("specrouter")
        context = self._propagator.extract({"traceparent": parent})
        self._span = self._tracer.start_span(
            name, context, SpanKind.SERVER, start_time=self._ns(ago_s)
        )

    @property
    def traceparent(self) -> str:
        """For spans of other processes that belong to this one (W3C trace context)."""
        from opentelemetry.trace import set_span_in_context

        carrier: dict[str, str] = {}
        self._propagator.inject(carrier, set_span_in_context(self._span))
        return carrier["traceparent"]

    def part(self, name: str, began_ago_s: float, ended_ago_s: float) -> None:
        """A part of it that is over."""
        from opentelemetry.trace import set_span_in_context

        context = set_span_in_context(self._span)
        part = self._tracer.start_span(name, context, start_time=self._ns(began_ago_s))
        part.end(self._ns(ended_ago_s))

    def end(
        self, attributes: Attributes, error: str | None = None, *, ago_s: float | None = None
    ) -> None:
        """It is over.

        Args:
            attributes: what is known of it.
            error: what it has failed with.
            ago_s: when; None: now.
        """
        from opentelemetry.trace import Status, StatusCode

        self._span.set_attributes({k: v for k, v in attributes.items() if v is not None})
        if error is not None:
            self._span.set_status(Status(StatusCode.ERROR, error))
        self._span.end(None if ago_s is None else self._ns(ago_s))

    def _ns(self, ago_s: float) -> int:
        return self._made_ns - int(ago_s * 1e9)


def begin_span(name: str, parent: str = "", *, ago_s: float = 0.0) -> RequestSpan | None:
    """A span that began ``ago_s`` ago; None where nobody asks for spans.

    Args:
        name: what it is.
        parent: traceparent of the span that it belongs to; empty or invalid: it is a trace's first.
        ago_s: how long it has been going on.
    """
    return None if _provider is None else RequestSpan(_provider, name, parent, ago_s)
