"""Traces of requests by OpenTelemetry, sent to a collector over OTLP/HTTP. Imported only where a collector is named.

A span covers a request from its arrival to its answer and continues the caller's trace (`traceparent`, W3C Trace Context). Spans are
made when the answer is known and sent by a thread of their own, in batches; a collector that does not answer costs spans, no requests.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

if TYPE_CHECKING:
    from serving.callers.calls import Call

EXPORT_SECONDS = 2.0
"""A collector that is down makes a server that stops wait as long as this."""

_propagator = TraceContextTextMapPropagator()


class Traces:
    """`collector` is the URL that takes spans, such as http://127.0.0.1:4318/v1/traces."""

    def __init__(self, collector: str, worker: str) -> None:
        resource = Resource.create(
            {"service.name": "evergreen-endpoint", "service.instance.id": worker}
        )
        self._provider = TracerProvider(resource=resource)
        self._provider.add_span_processor(
            BatchSpanProcessor(OTLPSpanExporter(endpoint=collector, timeout=EXPORT_SECONDS))
        )
        self._tracer = self._provider.get_tracer("evergreen.serving")
        # Spans carry wall time; a request's moments are of the monotonic clock.
        self._offset = time.time_ns() - time.monotonic_ns()

    def answered(self, call: Call, method: str, path: str, status: int) -> None:
        """Record one answered request. Attributes hold no values of the request: route, pipeline, arm, rows, status."""
        # Until a caller is let in, its path may be anything.
        route = _route(path, status) if call.admitted else "unknown"
        parent = (
            _propagator.extract({"traceparent": call.traceparent.decode("latin-1")})
            if call.traceparent
            else None
        )
        span = self._tracer.start_span(
            f"{method} {route}", context=parent, kind=SpanKind.SERVER, start_time=int(call.start * 1e9) + self._offset,
            attributes={
                "http.request.method": method, "http.route": route, "http.response.status_code": status,
                "evergreen.pipeline": call.pipeline, "evergreen.arm": call.arm, "evergreen.rows": call.rows,
            },
        )  # fmt: skip
        if status >= 500:
            span.set_status(StatusCode.ERROR)
        span.end(time.monotonic_ns() + self._offset)

    def close(self) -> None:
        """Send what is left."""
        self._provider.shutdown()


def _route(path: str, status: int) -> str:
    """A path with the pipeline left open; those that do not exist are one route."""
    if status == 404:
        return "unknown"
    for prefix in ("/predict/", "/explain/", "/models/", "/v2/models/"):
        if path.startswith(prefix):
            _, *rest = path[len(prefix) :].split("/")
            return "/".join(
                [
                    f"{prefix}{{pipeline}}",
                    *(
                        "{version}" if before == "versions" else part
                        for before, part in zip(["", *rest], rest, strict=False)
                    ),
                ]
            )
    return path
