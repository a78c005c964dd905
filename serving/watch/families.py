"""Every metric that `/metrics` exports: name, kind, help and labels, as dashboards use them.

The bounds of the histograms stand here, too. Values do not: `regions` holds what workers count.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from bundle.records.service import BOUNDS


class Family(NamedTuple):
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()


FAMILIES: dict[str, Family] = {
    "requests_total": Family("counter", "Answered requests by status.", ("pipeline", "status")),
    "request_seconds": Family(
        "histogram",
        "Time from a request's arrival to its answer, successes alone, by the arm that answered.",
        ("pipeline", "arm"),
    ),
    "predictions_total": Family("counter", "Rows predicted and logged.", ("pipeline", "arm")),
    "prediction": Family(
        "histogram", "What was predicted: the outputs' distribution.", ("pipeline", "arm")
    ),
    "out_of_distribution_total": Family(
        "counter",
        "Rows with a feature outside the range of the training set, by feature.",
        ("pipeline", "feature"),
    ),
    "unauthorized_total": Family(
        "counter", "Requests refused because of their key or token, by reason.", ("reason",)
    ),
    "rate_limited_total": Family(
        "counter", "Requests refused because their key asked too often.", ("key",)
    ),
    "shed_total": Family(
        "counter",
        "Requests refused: too many at once, too late to be of use, or not loggable (full disk).",
        ("reason",),
    ),
    "requests_in_flight": Family(
        "gauge", "Requests that have arrived and are not answered yet, queued ones included."
    ),
    "bundle_info": Family(
        "gauge",
        "Bundle behind each arm; the value is its share of the traffic.",
        ("pipeline", "arm", "bundle"),
    ),
    "serves_desired": Family(
        "gauge",
        "1 where every worker serves the newest desired state, 0 where one does not.",
        ("pipeline",),
    ),
    "desired_refused": Family(
        "gauge",
        "1 where a worker cannot take the desired state: damaged, unsigned, older or unusable.",
        ("pipeline",),
    ),
    "platform_alarm": Family(
        "gauge", "1 while the platform says that it changes nothing, as with an altered ledger."
    ),
    "online_features_current": Family(
        "gauge",
        "1 where the newest online snapshot is in use, 0 where it is missing or was refused.",
        ("pipeline",),
    ),
    "trials_total": Family(
        "counter",
        "Rows computed by bundles on trial: scored beside the answer, failed, or dropped.",
        ("pipeline", "outcome"),
    ),
    "serving_info": Family(
        "gauge",
        "1 where a verified bundle is served; day of the online features.",
        ("pipeline", "online_as_of"),
    ),
    "desired_serial": Family("gauge", "Serial of the desired state that is served.", ("pipeline",)),
    "online_features_age_seconds": Family(
        "gauge", "Time since the online features were published.", ("pipeline",)
    ),
    "api_key_expires_seconds": Family(
        "gauge",
        "Time until a key expires: +Inf for one that never does, negative once it has.",
        ("key", "owner"),
    ),
    "log_sync_failing": Family(
        "gauge", "1 while the prediction log cannot be flushed to the disk."
    ),
    "cpu_seconds_total": Family("counter", "CPU time used by a worker.", ("worker",)),
    "resident_memory_bytes": Family("gauge", "Resident memory of a worker.", ("worker",)),
    "start_time_seconds": Family("gauge", "Start of a worker, Unix time.", ("worker",)),
}
"""By name, without the prefix `evergreen_`."""

OUTPUT_BOUNDS: tuple[float, ...] = tuple(round(step / 10, 1) for step in range(1, 11))
"""Upper bounds of the buckets of predicted probabilities."""

SHOWN_LATENCIES = tuple(range(2, len(BOUNDS), 3))
"""Indices of the exported latency bounds: every third. They lie 15 % apart, finer than needed."""
