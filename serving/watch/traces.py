"""Traces of requests by OpenTelemetry, sent to a collector over OTLP/HTTP.

Imported only where a collector is named. A span covers a request from its arrival to its answer and
continues the caller's trace (`traceparent`, W3C Trace Context). Spans are made when the answer is
known. A thread sends them in batches; a collector that does not answer costs spans, not requests.
"""

from __future__ import annotations

import time
from typing import Protocol

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

EXPORT_SECONDS = 2.0
"""A stopping server waits this long for a collector that is down."""

PIPELINE_ROUTES = ("/predict/", "/explain/", "/models/", "/v2/models/")

_propagator = TraceContextTextMapPropagator()


class Traced(Protocol):
    """What a span says of a request. `start` is of the monotonic clock, in seconds."""

    start: float
    traceparent: bytes
    pipeline: str
    arm: str
    rows: int

    @property
    def admitted(self) -> bool:
        """Whether its caller was let in."""


class Traces:
    """`collector` is the URL that takes spans, such as http://127.0.0.1:4318/v1/traces."""

    def __init__(self, collector: str, worker: str) -> None:
        resource = Resource.create(
            {"service.name": "evergreen-endpoint", "service.instance.id": worker}
        )
        exporter = OTLPSpanExporter(endpoint=collector, timeout=EXPORT_SECONDS)
        self._provider = TracerProvider(resource=resource)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("evergreen.serving")

        # Spans carry wall time; a request's moments are of the monotonic clock.
        self._offset = time.time_ns() - time.monotonic_ns()

    def answered(self, call: Traced, method: str, path: str, status: int) -> None:
        """Record one answered request. Attributes hold no values that the request sent."""
        # Until a caller is let in, its path may be anything.
        route = _route(path, status) if call.admitted else "unknown"

        parent = None
        if call.traceparent:
            carrier = {"traceparent": call.traceparent.decode("latin-1")}
            parent = _propagator.extract(carrier)

        span = self._tracer.start_span(
            f"{method} {route}",
            context=parent,
            kind=SpanKind.SERVER,
            start_time=int(call.start * 1e9) + self._offset,
            attributes={
                "http.request.method": method,
                "http.route": route,
                "http.response.status_code": status,
                "evergreen.pipeline": call.pipeline,
                "evergreen.arm": call.arm,
                "evergreen.rows": call.rows,
            },
        )
        if status >= 500:
            span.set_status(StatusCode.ERROR)
        span.end(time.monotonic_ns() + self._offset)

    def close(self) -> None:
        """Send what is left."""
        self._provider.shutdown()


def _route(path: str, status: int) -> str:
    """A path with the names of pipeline and version left open; missing ones share a route."""
    if status == 404:
        return "unknown"

    for prefix in PIPELINE_ROUTES:
        if path.startswith(prefix):
            _, *rest = path[len(prefix) :].split("/")
            parts = [
                "{version}" if before == "versions" else part
                for before, part in zip(["", *rest], rest, strict=False)
            ]
            return "/".join([f"{prefix}{{pipeline}}", *parts])

    return path
