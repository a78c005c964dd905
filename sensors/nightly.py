"""The nightly schedule and the arrival sensor: both request the days that are due."""

import hashlib
from datetime import date
from typing import NamedTuple

import dagster as dg

from assets.names import asset_key, raw_name, raw_table
from assets.traffic.entries import Release, entries
from declare.pipeline import Pipeline
from resources.lake import Lake
from resources.landing import Landing
from resources.ledger import Ledger
from resources.reports import Reports
from sensors import jobs
from sensors.due import Due, due
from sensors.progress import (
    Deliveries,
    decided_days,
    deliveries,
    featured_days,
    ingested_days,
)
from sensors.requests import AS_OF, CAUSE, RANGE_END, RANGE_START, overlapping, run_request


def build(pipeline: Pipeline) -> tuple[dg.ScheduleDefinition, dg.SensorDefinition]:
    """The schedule and the sensor that bring a pipeline up to what has been delivered."""

    @dg.schedule(
        name=f"{pipeline.name}_nightly_schedule",
        job_name=jobs.nightly(pipeline),
        cron_schedule=pipeline.nightly,
        execution_timezone=pipeline.timezone,
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description=(
            "Each night: what was delivered and not yet processed, however many days that is."
        ),
    )
    def nightly(
        context: dg.ScheduleEvaluationContext,
        landing: Landing,
        lake: Lake,
        reports: Reports,
        ledger: Ledger,
    ) -> list[dg.RunRequest] | dg.SkipReason:
        stores = Stores(landing, lake, reports, ledger)
        return next_requests(context.instance, pipeline, stores, cause="nightly")

    @dg.sensor(
        name=f"{pipeline.name}_arrivals",
        job_name=jobs.nightly(pipeline),
        minimum_interval_seconds=5,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=(
            "When files land: the same work as the nightly schedule, and again for days whose "
            "files changed."
        ),
    )
    def arrivals(
        context: dg.SensorEvaluationContext,
        landing: Landing,
        lake: Lake,
        reports: Reports,
        ledger: Ledger,
    ) -> list[dg.RunRequest] | dg.SkipReason:
        stores = Stores(landing, lake, reports, ledger)
        return next_requests(context.instance, pipeline, stores, cause="arrival")

    return nightly, arrivals


class Stores(NamedTuple):
    """Where what was delivered, stored, decided and served is read."""

    landing: Landing
    lake: Lake
    reports: Reports
    ledger: Ledger


def next_requests(
    instance: dg.DagsterInstance, pipeline: Pipeline, stores: Stores, *, cause: str
) -> list[dg.RunRequest] | dg.SkipReason:
    """Requests for the next days that are due, at most one of each stage, or why there are none.

    They may run at once: a finished day is monitored from what was known by its end, and what a
    newer delivery brings changes nothing of it.
    """
    delivered = deliveries(pipeline, stores.landing)
    stages = due(
        delivered,
        ingested_days(pipeline, delivered, stores.lake),
        decided_days(pipeline, stores.reports),
        served_since(pipeline, stores.ledger),
        pipeline.start,
    )

    made = [_request(instance, pipeline, stores.lake, delivered, work, cause) for work in stages]
    requests = [request for request in made if isinstance(request, dg.RunRequest)]
    reasons = [str(skip.skip_message) for skip in made if isinstance(skip, dg.SkipReason)]
    return requests or dg.SkipReason("; ".join(reasons) or "everything delivered is processed")


def _request(
    instance: dg.DagsterInstance,
    pipeline: Pipeline,
    lake: Lake,
    delivered: Deliveries,
    work: Due,
    cause: str,
) -> dg.RunRequest | dg.SkipReason:
    kind = f"{pipeline.name}:{work.stage}:"
    doing = overlapping(instance, jobs.nightly(pipeline), kind, work.first, work.last)
    if doing is not None:
        return dg.SkipReason(f"{doing} is under way")

    if work.stage == "monitor":
        selection = jobs.keys(pipeline, "monitored")
    else:
        selection = [*jobs.keys(pipeline, "ingested"), *_not_landed(pipeline, lake)]
        if work.first in featured_days(pipeline, lake):
            cause = "redelivery"

    return run_request(
        instance,
        jobs.nightly(pipeline),
        f"{kind}{work.first}:{work.last}:{_content(delivered, work)}",
        tags={
            RANGE_START: work.first.isoformat(),
            RANGE_END: work.last.isoformat(),
            CAUSE: cause,
            AS_OF: work.last.isoformat(),
        },
        selection=selection,
    )


def _not_landed(pipeline: Pipeline, lake: Lake) -> list[dg.AssetKey]:
    """Sources that land once and are not stored yet."""
    missing = [
        source.name
        for source in pipeline.sources
        if not source.daily and not lake.exists(raw_table(pipeline.name, source.name))
    ]
    return [asset_key(pipeline.name, raw_name(source)) for source in missing]


def served_since(pipeline: Pipeline, ledger: Ledger) -> date | None:
    """The data day of the pipeline's first release, None before it."""
    releases = (e.day for e in entries(ledger, pipeline.name) if isinstance(e, Release))
    return next(releases, None)


def _content(delivered: Deliveries, work: Due) -> str:
    """A digest of all files of the days of some work, for the name of its request."""
    files: list[str] = []
    for source, days in sorted(delivered.items()):
        files += [
            f"{source} {day} {digest}"
            for day, digest in sorted(days.items())
            if work.first <= day <= work.last
        ]

    return hashlib.sha256("\n".join(files).encode()).hexdigest()[:16]
