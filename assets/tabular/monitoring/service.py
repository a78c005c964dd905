"""The service monitor: did the endpoint answer, how fast, and with what."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np

from assets.reporting.report import Measure, Verdict
from bundle.records.service import Sample, combined, percentile
from declare.monitors import Monitors

if TYPE_CHECKING:
    import polars as pl

PERCENTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99}
# Samples come every few seconds: one that ends this much after the last prediction still speaks of
# it.
SLACK = timedelta(seconds=30)


def wall_window(predictions: pl.DataFrame) -> tuple[datetime, datetime] | None:
    """The wall time in which a day's predictions were answered; None without any.

    A replay answers a day in seconds.
    """
    if predictions.is_empty():
        return None
    times = predictions["wall_time"].to_list()
    return min(times) - timedelta(seconds=1), max(times) + SLACK


def report(
    predictions: pl.DataFrame, samples: Sequence[Sample], pipeline: str, limits: Monitors
) -> tuple[tuple[Measure, ...], tuple[Verdict, ...], tuple[str, ...]]:
    """Measures, verdicts and notes over a day's predictions and the endpoint's own samples.

    `latency_ms` of predictions is measured inside the server, from decoding to logging. The samples
    of that time hold latency as clients of the server see it, statuses, CPU as a share of one core,
    and memory. Rules: `latency_p99` (milliseconds) and `error_rate` (answers 5xx). Bad requests
    (4xx) are the caller's and are only counted.
    """
    n = predictions.height
    inside = np.asarray(predictions["latency_ms"].to_numpy(), dtype=np.float64)
    measures = [Measure(name="predictions", value=float(n), n=n)]
    if n:
        measures += [
            Measure(name=f"model_ms_{name}", value=float(np.quantile(inside, share)), n=n)
            for name, share in PERCENTILES.items()
        ]
        arms = predictions["arm"].value_counts().sort("arm")
        measures += [
            Measure(name="predictions", value=float(count), n=n, group=str(arm))
            for arm, count in arms.iter_rows()
        ]
    traffic = combined(samples, pipeline)
    requests, bad, failed = traffic.requests, traffic.errors("4"), traffic.errors("5")
    measures += [
        Measure(name="requests", value=float(requests), n=requests),
        Measure(name="refused_requests", value=float(bad), n=requests),
        Measure(name="failed_requests", value=float(failed), n=requests),
    ]
    for name, share in PERCENTILES.items():
        seconds = percentile(traffic.latency, share)
        measures.append(
            Measure(
                name=f"latency_ms_{name}",
                value=None if seconds is None else seconds * 1_000,
                n=sum(traffic.latency.values()),
            )
        )
    measures += _resources(samples)
    notes = [
        f"The prediction log reported {sample.log_error} at {sample.at:%Y-%m-%d %H:%M} UTC."
        for sample in samples
        if sample.log_error
    ][:1]
    if not samples:
        notes.append(
            "The endpoint left no samples of this time: requests, errors, CPU and memory are "
            "unknown."
        )
    return (
        tuple(measures),
        (_latency(traffic.latency, inside, limits), _errors(failed, requests, limits)),
        tuple(notes),
    )


def _resources(samples: Sequence[Sample]) -> list[Measure]:
    seconds = sum(sample.seconds for sample in samples)
    if not seconds:
        return []
    workers = len({sample.worker for sample in samples})
    cpu = sum(sample.cpu * sample.seconds for sample in samples) / seconds * workers
    most = max(sample.memory for sample in samples)
    return [
        Measure(name="workers", value=float(workers), n=len(samples)),
        Measure(name="cpu_cores", value=cpu, n=len(samples)),
        Measure(name="memory_mb_of_a_worker", value=most / 1e6, n=len(samples)),
    ]


def _latency(
    latency: dict[str, int], inside: np.ndarray[tuple[int], np.dtype[np.float64]], limits: Monitors
) -> Verdict:
    limit = limits.latency_p99_ms
    seconds = percentile(latency, 0.99)
    if seconds is not None:
        value, n, what = seconds * 1_000, sum(latency.values()), "of requests"
    elif len(inside):
        value, n, what = (
            float(np.quantile(inside, 0.99)),
            len(inside),
            "of predictions inside the server (no samples of requests)",
        )
    else:
        return Verdict(
            rule="latency_p99",
            passed=None,
            value=None,
            limit=limit,
            n=0,
            reason="no request was answered",
        )
    reason = f"the 99th percentile {what} is {value:.2f} ms (n={n}, limit {limit:g} ms)"
    return Verdict(
        rule="latency_p99", passed=value <= limit, value=value, limit=limit, n=n, reason=reason
    )


def _errors(failed: int, requests: int, limits: Monitors) -> Verdict:
    limit = limits.error_rate
    if not requests:
        return Verdict(
            rule="error_rate",
            passed=None,
            value=None,
            limit=limit,
            n=0,
            reason="no request was counted",
        )
    rate = failed / requests
    reason = f"{failed} of {requests} requests failed ({rate:.2%}, limit {limit:.2%})"
    return Verdict(
        rule="error_rate", passed=rate <= limit, value=rate, limit=limit, n=requests, reason=reason
    )
